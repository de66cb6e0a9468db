"""Samples are derived from the SDK for each event type."""

import json
import re
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, get_type_hints

import pytest
import stripe
from stripe.events import UnknownEventNotification
from stripe.v2.core import EventNotification

from devkit import samples

METER = "v1.billing.meter.error_report_triggered"
SINGLETONS = {
    "v1.balance.available": "/v1/balance",
    "v1.balance_settings.updated": "/v1/balance_settings",
    "v1.cash_balance.funds_available": "/v1/customers/{customer}/cash_balance",
    "v1.customer.discount.created": "/v1/customers/{customer}/discount",
    "v1.customer.discount.deleted": "/v1/customers/{customer}/discount",
    "v1.customer.discount.updated": "/v1/customers/{customer}/discount",
    "v1.tax.settings.updated": "/v1/tax/settings",
}


@pytest.fixture(scope="module")
def stripe_client() -> stripe.StripeClient:
    """A client that makes no request."""
    return stripe.StripeClient("sk_test_fake")


def read(client: stripe.StripeClient, notification: dict[str, Any]) -> EventNotification:
    """Return the SDK's object for the bytes of a sample."""
    return EventNotification.from_json(samples.encode(notification), client)


class TestEventTypes:
    """The types are all types of the SDK."""

    def test_each_type_has_its_method(self) -> None:
        """Each type has an ``on_`` method in the SDK's handler. They are sorted."""
        methods = [name for name in dir(stripe.StripeEventNotificationHandler) if name[:3] == "on_"]
        spelled = [
            f"on_{event_type.replace('[', '_including_').replace(']', '').replace('.', '_')}"
            for event_type in samples.event_types()
        ]
        assert sorted(spelled) == sorted(methods)
        assert samples.event_types() == sorted(samples.event_types())

    def test_nearest_is_found(self) -> None:
        """A misspelled type of either kind has the right type as nearest."""
        assert samples.nearest("v1.custommer.created")[0] == "v1.customer.created"
        assert samples.nearest("custommer.created")[0] == "customer.created"
        assert samples.nearest("no such thing") == []

    @pytest.mark.parametrize(
        "ask",
        [
            samples.notification,
            samples.related_object_kind,
            samples.related_class,
            samples.related_url,
        ],
    )
    def test_unknown_type_is_refused(self, ask: Callable[[str], object]) -> None:
        """A type that the SDK does not know is an error with the nearest types."""
        with pytest.raises(samples.UnknownEventTypeError, match=r"v1\.custommer\.created") as error:
            ask("v1.custommer.created")
        assert error.value.event_type == "v1.custommer.created"
        assert error.value.nearest[0] == "v1.customer.created"


class TestRelatedObjects:
    """Kind, class and address of the related object come from the SDK's classes."""

    def test_kinds(self) -> None:
        """In stripe 16.1.0, 306 types have an object, 7 a singleton, and 13 none."""
        kinds = Counter(map(samples.related_object_kind, samples.event_types()))
        assert sum(kinds.values()) == len(samples.event_types())
        if stripe.VERSION == "16.1.0":
            assert kinds == {"object": 306, "singleton": 7, "none": 13}

    def test_singletons_have_addresses_without_an_id(self) -> None:
        """The address of a singleton is that of its parent."""
        found = {
            event_type: samples.related_url(event_type)
            for event_type in samples.event_types()
            if samples.related_object_kind(event_type) == "singleton"
        }
        assert found == SINGLETONS

    @pytest.mark.parametrize("event_type", samples.event_types())
    def test_address_ends_with_the_id(self, event_type: str) -> None:
        """An address ends with the id of the object, except for a singleton."""
        url = samples.related_url(event_type)
        related = samples.related_class(event_type)
        if samples.related_object_kind(event_type) == "none":
            assert url is None
            assert related is None
            return
        assert url is not None
        assert url.endswith("}") == (samples.related_object_kind(event_type) == "object")
        object_name = str(getattr(related, "OBJECT_NAME", ""))
        assert url.startswith("/v2/" if object_name.startswith("v2.") else "/v1/")

    @pytest.mark.parametrize(
        ("event_type", "url"),
        [
            (METER, "/v1/billing/meters/{id}"),
            ("v1.checkout.session.completed", "/v1/checkout/sessions/{session}"),
            ("v1.customer.tax_id.created", "/v1/tax_ids/{id}"),
            ("v1.account.updated", "/v1/accounts/{account}"),
            ("v1.capability.updated", "/v1/accounts/{account}/capabilities/{capability}"),
            ("v2.core.account_person.created", "/v2/core/accounts/{account_id}/persons/{id}"),
        ],
    )
    def test_address_is_that_of_the_service(self, event_type: str, url: str) -> None:
        """The address is the shortest path of ``retrieve``."""
        assert samples.related_url(event_type) == url

    @pytest.mark.parametrize(
        ("event_type", "related"),
        [
            ("v1.account.updated", stripe.Account),
            ("v1.financial_connections.account.created", stripe.financial_connections.Account),
            ("v2.core.account.closed", stripe.v2.core.Account),
        ],
    )
    def test_classes_of_one_name_are_told_apart(self, event_type: str, related: type) -> None:
        """Three classes are named Account: each type has the right one."""
        assert samples.related_class(event_type) is related


class TestNotification:
    """The body has the form that Stripe sends."""

    @pytest.mark.parametrize("event_type", samples.event_types())
    def test_sdk_reads_each_sample(
        self, event_type: str, stripe_client: stripe.StripeClient
    ) -> None:
        """The SDK reads a sample as the class of the type, with the right kind of object."""
        sample = samples.notification(event_type)
        notif = read(stripe_client, sample)
        assert type(notif).__name__.endswith("EventNotification")
        assert type(notif) is not UnknownEventNotification
        assert (notif.type, vars(type(notif))["LOOKUP_TYPE"]) == (event_type, event_type)
        assert (notif.id, notif.livemode, notif.context) == (sample["id"], False, None)
        hint = get_type_hints(type(notif)).get("related_object")
        related = getattr(notif, "related_object", None)
        assert type(related) is (hint or type(None))
        assert (
            vars(related) == sample["related_object"] if related else "related_object" not in sample
        )

    def test_body_of_an_object(self) -> None:
        """A body has the event's id, type, mode and time, and the object with its address."""
        body = samples.notification(METER, event_id="evt_1", object_id="mtr_1")
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", body.pop("created"))
        assert body == {
            "id": "evt_1",
            "object": "v2.core.event",
            "type": METER,
            "livemode": False,
            "related_object": {
                "id": "mtr_1",
                "type": "billing.meter",
                "url": "/v1/billing/meters/mtr_1",
            },
        }

    def test_parents_are_named_in_the_address(self) -> None:
        """The address of a nested object has an id for each level."""
        related = samples.notification("v2.core.account_person.created")["related_object"]
        pattern = r"/v2/core/accounts/account_sample_\w+/persons/account_person_sample_\w+"
        assert re.fullmatch(pattern, related["url"])
        assert related["url"].endswith(related["id"])

    def test_ids_are_not_repeated(self) -> None:
        """Two samples have different events and objects."""
        first, second = samples.notification(METER), samples.notification(METER)
        assert first["id"].startswith("evt_")
        assert first["id"] != second["id"]
        assert first["related_object"]["id"] != second["related_object"]["id"]

    def test_created_is_now_or_as_given(self) -> None:
        """The time is converted to UTC."""
        now = datetime.now(UTC)
        created = datetime.fromisoformat(samples.notification(METER)["created"])
        assert abs(created - now) < timedelta(seconds=10)
        given = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=2)))
        assert samples.notification(METER, created=given)["created"] == "2026-01-02T01:04:05.000Z"

    def test_context_and_reason_reach_the_sdk(self, stripe_client: stripe.StripeClient) -> None:
        """The SDK reads the given context, mode and reason."""
        reason = samples.request_reason("req_1", "key_1")
        sample = samples.notification(METER, context="acct_1", livemode=True, reason=reason)
        notif = read(stripe_client, sample)
        assert (str(notif.context), notif.livemode) == ("acct_1", True)
        assert notif.reason is not None
        assert notif.reason.type == "request"
        assert vars(notif.reason.request) == {"id": "req_1", "idempotency_key": "key_1"}
        assert samples.request_reason() != samples.request_reason()

    def test_unknown_type_has_what_it_is_given(self, stripe_client: stripe.StripeClient) -> None:
        """With ``unknown``, a type that the SDK does not know has only a given related object."""
        bare = samples.notification("v9.thing.made", unknown=True)
        assert "related_object" not in bare
        assert isinstance(read(stripe_client, bare), UnknownEventNotification)
        related = {"id": "thing_1", "type": "thing", "url": "/v9/things/thing_1"}
        full = samples.notification("v9.thing.made", unknown=True, related_object=related)
        notif = read(stripe_client, full)
        assert isinstance(notif, UnknownEventNotification)
        assert vars(notif.related_object) == related

    def test_known_type_stays_known(self) -> None:
        """``unknown`` has no effect on types that the SDK knows."""
        assert (
            samples.notification(METER, unknown=True)["related_object"]["type"] == "billing.meter"
        )


class TestApiBodies:
    """Events and objects as in answers of Stripe's API."""

    def test_event_has_the_fields_of_the_notification(self) -> None:
        """A full event has the notification, the data, and null for other optional fields."""
        sample = samples.notification(METER, context="acct_1")
        event = samples.event(sample, data={"developer_message_summary": "no meter"})
        assert event.items() >= sample.items()
        assert event["data"] == {"developer_message_summary": "no meter"}
        nulls = {name for name, value in event.items() if value is None}
        assert nulls == {"changes", "reason", "snapshot_event"}
        assert "data" not in samples.event(sample)

    def test_object_has_its_name_and_id(self) -> None:
        """A related object has its kind, an id unless it is a singleton, and given fields."""
        meter = samples.notification(METER, object_id="mtr_1")
        expected = {"id": "mtr_1", "object": "billing.meter", "status": "active"}
        assert samples.api_object(meter, status="active") == expected
        balance = samples.notification("v1.balance.available")
        assert samples.api_object(balance) == {"object": "balance"}


class TestSigning:
    """The SDK verifies the bytes and the header."""

    def test_encoded_compactly(self) -> None:
        """The bytes have no white space, and decode to the same notification."""
        sample = samples.notification(METER)
        assert b" " not in samples.encode(sample)
        assert json.loads(samples.encode(sample)) == sample

    def test_signature_is_verified(self) -> None:
        """A signature has the current or the given time, and is valid for its secret only."""
        body = samples.encode({"name": "é"}) + "é".encode()
        header = samples.sign(body, "whsec_fake")
        assert stripe.WebhookSignature.verify_header(body, header, "whsec_fake", 300)
        with pytest.raises(stripe.SignatureVerificationError, match="No signatures found"):
            stripe.WebhookSignature.verify_header(body, header, "whsec_other", 300)
        stale = samples.sign(body, "whsec_fake", int(time.time()) - 301)
        with pytest.raises(stripe.SignatureVerificationError, match="tolerance"):
            stripe.WebhookSignature.verify_header(body, stale, "whsec_fake", 300)
