"""The list of snapshot events of the stand-in, used by the SDK's client over real HTTP."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl

import pytest
import stripe

from devkit import samples
from devkit.stripe_api import StripeApi

TYPE = "customer.created"
OTHER = "customer.source.created"
NOW = datetime.now(UTC)

Ids = Callable[..., list[str]]


@pytest.fixture
def client(stripe_api: StripeApi, monkeypatch: pytest.MonkeyPatch) -> stripe.StripeClient:
    """A client of the stand-in."""
    monkeypatch.setattr(stripe, "enable_telemetry", False)
    return stripe.StripeClient("sk_test_fake", base_addresses={"api": stripe_api.url})


@pytest.fixture
def ids(client: stripe.StripeClient) -> Ids:
    """A function that returns the ids of the selected events, page by page."""

    def read(context: str | None = None, **params: Any) -> list[str]:
        options: Any = {"stripe_context": context} if context else None
        query: Any = params
        return [event.id for event in client.v1.events.list(query, options).auto_paging_iter()]

    return read


def put(api: StripeApi, event_id: str, age: float = 0, **fields: Any) -> None:
    """Serve an event that is ``age`` seconds old."""
    pending = fields.pop("pending_webhooks", 1)
    values = {"event_type": TYPE, **fields}
    event = samples.snapshot_event(
        event_id=event_id, created=NOW - timedelta(seconds=age), **values
    )
    api.put_event({**event, "pending_webhooks": pending})


def second(age: float) -> int:
    """Return the time ``age`` seconds ago in the format of the API."""
    return int((NOW - timedelta(seconds=age)).timestamp())


def test_query_is_the_sdks(stripe_api: StripeApi, ids: Ids) -> None:
    """The SDK's parameters are understood. The next page begins after the last event."""
    put(stripe_api, "evt_1", account="acct_1")
    put(stripe_api, "evt_2", 1, account="acct_1")
    put(stripe_api, "evt_3", 2, context="acct_1")
    found = ids("acct_1", types=[TYPE, OTHER], created={"gte": second(60)}, limit=2)
    assert found == ["evt_1", "evt_2", "evt_3"]
    first, following = (parse_qsl(asked.query) for asked in stripe_api.asked)
    types = [("types[0]", TYPE), ("types[1]", OTHER)]
    assert first == [*types, ("created[gte]", str(second(60))), ("limit", "2")]
    assert sorted(following) == sorted([*first, ("starting_after", "evt_2")])
    assert [asked.stripe_context for asked in stripe_api.asked] == ["acct_1"] * 2


def test_events_are_typed(stripe_api: StripeApi, client: stripe.StripeClient) -> None:
    """Each item is a ``stripe.Event``. The event can be retrieved by its id, too."""
    put(stripe_api, "evt_1")
    listing = client.v1.events.list()
    assert [type(event) for event in listing.data] == [stripe.Event]
    assert (listing.url, listing.has_more) == ("/v1/events", False)
    assert client.v1.events.retrieve("evt_1").id == "evt_1"


def test_each_kind_has_its_list(stripe_api: StripeApi, client: stripe.StripeClient) -> None:
    """The list of thin events has no snapshot event, and the other way round."""
    put(stripe_api, "evt_snapshot")
    stripe_api.put_event(samples.event(samples.notification(f"v1.{TYPE}", event_id="evt_thin")))
    assert [event.id for event in client.v1.events.list().data] == ["evt_snapshot"]
    assert [event.id for event in client.v2.core.events.list().data] == ["evt_thin"]


@pytest.mark.parametrize("limit", [1, 2, 100])
def test_newest_first(stripe_api: StripeApi, ids: Ids, *, limit: int) -> None:
    """All events are listed once, for any size of a page, while the list changes."""
    for number in range(4):
        put(stripe_api, f"evt_{number}", number + 10)
    stripe_api.events.after_page(1, lambda: put(stripe_api, "evt_new", 1))
    assert ids(limit=limit) == [f"evt_{number}" for number in range(4)]
    assert ids(limit=limit)[0] == "evt_new"


def test_page_has_ten(stripe_api: StripeApi, client: stripe.StripeClient) -> None:
    """The default page has ten events, and says that there are more."""
    for number in range(11):
        put(stripe_api, f"evt_{number}", number)
    listing = client.v1.events.list()
    assert (len(listing.data), listing.has_more) == (10, True)


def test_types_and_accounts(stripe_api: StripeApi, ids: Ids) -> None:
    """Several types select events of any of them, for one account."""
    put(stripe_api, "evt_1")
    put(stripe_api, "evt_2", 1, event_type=OTHER)
    put(stripe_api, "evt_3", 2, event_type="customer.deleted")
    put(stripe_api, "evt_4", account="acct_1")
    assert ids(types=[TYPE, OTHER]) == ["evt_1", "evt_2"]
    assert (ids("acct_1"), ids("acct_2")) == (["evt_4"], [])


@pytest.mark.parametrize(
    ("bound", "found"),
    [
        ("gt", ["evt_1"]),
        ("gte", ["evt_1", "evt_2"]),
        ("lt", ["evt_3"]),
        ("lte", ["evt_2", "evt_3"]),
    ],
)
def test_time(stripe_api: StripeApi, ids: Ids, bound: str, found: list[str]) -> None:
    """Each of the four bounds of the time selects events, in whole seconds."""
    for number in (1, 2, 3):
        put(stripe_api, f"evt_{number}", number)
    assert ids(created={bound: second(2)}) == found


def test_thirty_days(stripe_api: StripeApi, ids: Ids) -> None:
    """Events older than 30 days are not listed."""
    put(stripe_api, "evt_1", 29 * 86400)
    put(stripe_api, "evt_2", 31 * 86400)
    assert ids() == ["evt_1"]


def test_delivery_success(stripe_api: StripeApi, ids: Ids) -> None:
    """An event that no webhook waits for counts as delivered, also if none was ever sent."""
    put(stripe_api, "evt_1")
    put(stripe_api, "evt_2", 1, pending_webhooks=0)
    assert (ids(delivery_success=False), ids(delivery_success=True)) == (["evt_1"], ["evt_2"])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"types": [TYPE] * 21}, "at most 20 event types"),
        ({"created": {"gte": 1.5}}, "Invalid integer: 1.5"),
        ({"limit": 0}, "limit: must be between 1 and 100"),
        ({"starting_after": "evt_9"}, "No such event: 'evt_9'"),
        ({"delivery_success": "no"}, "Invalid boolean: no"),
        ({"color": "red"}, "Received unknown parameter: color"),
    ],
)
def test_what_the_api_refuses(ids: Ids, params: dict[str, Any], message: str) -> None:
    """An invalid query is answered 400."""
    with pytest.raises(stripe.InvalidRequestError) as raised:
        ids(**params)
    assert raised.value.http_status == 400
    assert message in str(raised.value.user_message)
