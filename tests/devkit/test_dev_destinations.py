"""The event destinations of ``make dev`` follow the handler modules."""

from __future__ import annotations

import stripe

from devkit.dev_destinations import DevDestinations
from devkit.stripe_api import StripeApi

WEBHOOK = "http://127.0.0.1:4242/webhook"
THIN, SNAPSHOT = "v1.customer.created", "customer.source.created"


def shown(api: StripeApi) -> dict[str, list[str]]:
    """Return the types of each destination by its kind."""
    found = [api.destinations.get(each) for each in api.destinations.ids]
    assert {each["webhook_endpoint"]["url"] for each in found} <= {WEBHOOK}
    return {each["event_payload"]: each["enabled_events"] for each in found}


def test_each_kind_has_its_destination() -> None:
    """A kind with a module has a destination with its types. Without a module there is a thin one.

    A snapshot destination has the API version of the SDK.
    """
    api = StripeApi()
    own = DevDestinations(api, WEBHOOK, "whsec_fake")
    for types, expected in (
        ([], {"thin": []}),
        ([THIN], {"thin": [THIN]}),
        ([SNAPSHOT, THIN], {"thin": [THIN], "snapshot": [SNAPSHOT]}),
        ([SNAPSHOT], {"snapshot": [SNAPSHOT]}),
        (["customer.created"], {"snapshot": ["customer.created"]}),
        ([], {"thin": []}),
    ):
        own.enable(types)
        assert shown(api) == expected
    own.enable([SNAPSHOT])
    (name,) = api.destinations.ids
    assert api.destinations.get(name)["snapshot_api_version"] == stripe.api_version
    assert api.destinations.secret(name) == "whsec_fake"


def test_deleted_destination_stays_deleted() -> None:
    """A destination that a person has deleted is not made again, and not changed."""
    api = StripeApi()
    own = DevDestinations(api, WEBHOOK, "whsec_fake")
    own.enable([THIN])
    api.destinations.remove(api.destinations.ids[0])
    own.enable([THIN])
    own.enable([])
    assert shown(api) == {}
