"""The event list of the stand-in, used by the SDK's client over real HTTP."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import stripe

from devkit import samples
from devkit.stripe_api import StripeApi

TYPE = "v1.customer.created"
OTHER = "v1.billing.meter.no_meter_found"
NOW = datetime.now(UTC)


@pytest.fixture
def client(stripe_api: StripeApi, monkeypatch: pytest.MonkeyPatch) -> stripe.StripeClient:
    """A client of the stand-in."""
    monkeypatch.setattr(stripe, "enable_telemetry", False)
    return stripe.StripeClient("sk_test_fake", base_addresses={"api": stripe_api.url})


def put(api: StripeApi, event_id: str, age: float = 0, **fields: Any) -> dict[str, Any]:
    """Serve an event that is ``age`` seconds old."""
    values = {"event_type": TYPE, **fields}
    created = NOW - timedelta(seconds=age)
    event = samples.event(samples.notification(event_id=event_id, created=created, **values), {})
    api.put_event(event)
    return event


def moment(age: float) -> str:
    """Return the time ``age`` seconds ago in the format of the API."""
    return (NOW - timedelta(seconds=age)).isoformat(timespec="milliseconds")


Ids = Callable[..., list[str]]


@pytest.fixture
def ids(client: stripe.StripeClient) -> Ids:
    """A function that returns the ids of the selected events, page by page."""

    def read(context: str | None = None, **params: Any) -> list[str]:
        options: Any = {"stripe_context": context} if context else None
        query: Any = params
        found = client.v2.core.events.list(query, options)
        return [event.id for event in found.auto_paging_iter()]

    return read


class TestWire:
    """The requests and answers have the form that the SDK sends and reads."""

    def test_query_is_the_sdks(self, stripe_api: StripeApi, ids: Ids) -> None:
        """The SDK's parameters are understood, and repeated in the address of the next page."""
        put(stripe_api, "evt_1", context="acct_1")
        put(stripe_api, "evt_2", context="acct_1")
        ids("acct_1", types=[TYPE, OTHER], created={"gte": moment(60)}, limit=1)
        first, second = (asked.query for asked in stripe_api.asked)
        assert first.startswith(f"types%5B0%5D={TYPE}&types%5B1%5D={OTHER}&created%5Bgte%5D=2")
        assert first.endswith("&limit=1")
        assert second.startswith(f"{first}&page=")
        assert [asked.stripe_context for asked in stripe_api.asked] == ["acct_1"] * 2

    def test_events_are_typed(self, stripe_api: StripeApi, client: stripe.StripeClient) -> None:
        """A known type is read as its class, an unknown type as a plain object."""
        put(stripe_api, "evt_1")
        put(stripe_api, "evt_2", 1, event_type="v9.thing.made", unknown=True)
        known, unknown = client.v2.core.events.list().data
        assert isinstance(known, stripe.events.V1CustomerCreatedEvent)
        assert type(unknown) is stripe.StripeObject
        assert unknown.to_dict()["type"] == "v9.thing.made"

    def test_other_addresses_are_served_as_before(
        self, stripe_api: StripeApi, client: stripe.StripeClient
    ) -> None:
        """An event is retrieved by its id. A POST to the list is not found."""
        put(stripe_api, "evt_1")
        assert client.v2.core.events.retrieve("evt_1").id == "evt_1"
        with pytest.raises(stripe.InvalidRequestError) as raised:
            client.raw_request("post", "/v2/core/events")
        assert raised.value.http_status == 404


class TestPages:
    """Each event is listed once, the newest first."""

    @pytest.mark.parametrize("limit", [1, 2, 3, 5, 100])
    def test_newest_first(self, stripe_api: StripeApi, ids: Ids, *, limit: int) -> None:
        """All events are listed, for any size of a page."""
        for number in range(5):
            put(stripe_api, f"evt_{number}", number)
        assert ids(limit=limit) == [f"evt_{number}" for number in range(5)]
        assert len(stripe_api.asked) == -(-5 // limit)

    def test_page_has_twenty(self, stripe_api: StripeApi, client: stripe.StripeClient) -> None:
        """The default page has twenty events."""
        for number in range(21):
            put(stripe_api, f"evt_{number}", number)
        assert len(client.v2.core.events.list().data) == 20

    def test_list_that_changes_while_it_is_read(self, stripe_api: StripeApi, ids: Ids) -> None:
        """A new event and a removed event shift no other event to another page."""
        for number in range(4):
            put(stripe_api, f"evt_{number}", number + 10)

        def change() -> None:
            put(stripe_api, "evt_new", 1)
            stripe_api.events.remove("evt_0")

        stripe_api.events.after_page(1, change)
        assert ids(limit=2) == ["evt_0", "evt_1", "evt_2", "evt_3"]
        assert ids(limit=2) == ["evt_new", "evt_1", "evt_2", "evt_3"]

    def test_page_that_is_forgotten(self, stripe_api: StripeApi, ids: Ids) -> None:
        """An expired page token is 400."""
        for number in range(2):
            put(stripe_api, f"evt_{number}", number)
        stripe_api.events.after_page(1, stripe_api.events.forget_pages)
        with pytest.raises(stripe.InvalidRequestError, match="has expired"):
            ids(limit=1)


class TestFilters:
    """The parameters select events."""

    def test_accounts_have_lists_of_their_own(self, stripe_api: StripeApi, ids: Ids) -> None:
        """Without a context the list has the events of the account of the key."""
        put(stripe_api, "evt_own")
        put(stripe_api, "evt_1", context="acct_1")
        assert (ids(), ids("acct_1"), ids("acct_2")) == (["evt_own"], ["evt_1"], [])

    def test_types(self, stripe_api: StripeApi, ids: Ids) -> None:
        """Several types select events of any of them."""
        put(stripe_api, "evt_1")
        put(stripe_api, "evt_2", 1, event_type=OTHER)
        put(stripe_api, "evt_3", 2, event_type="v1.customer.deleted")
        assert ids(types=[TYPE, OTHER]) == ["evt_1", "evt_2"]

    @pytest.mark.parametrize(
        ("bound", "found"),
        [
            ("gt", ["evt_1"]),
            ("gte", ["evt_1", "evt_2"]),
            ("lt", ["evt_3"]),
            ("lte", ["evt_2", "evt_3"]),
        ],
    )
    def test_time(self, stripe_api: StripeApi, ids: Ids, bound: str, found: list[str]) -> None:
        """Each of the four bounds of the time selects events."""
        for number in (1, 2, 3):
            put(stripe_api, f"evt_{number}", number)
        assert ids(created={bound: moment(2)}) == found

    def test_object(self, stripe_api: StripeApi, ids: Ids) -> None:
        """The id of an object selects its events. Some events have no object."""
        put(stripe_api, "evt_1", object_id="cus_1")
        put(stripe_api, "evt_2", object_id="cus_2")
        put(stripe_api, "evt_3", event_type=OTHER)
        assert ids(object_id="cus_1") == ["evt_1"]

    def test_thirty_days(self, stripe_api: StripeApi, ids: Ids) -> None:
        """Events older than 30 days are not listed."""
        put(stripe_api, "evt_1", 29 * 86400)
        put(stripe_api, "evt_2", 31 * 86400)
        assert ids() == ["evt_1"]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"types": [TYPE] * 21}, "at most 20 event types"),
        ({"created": {"gte": "yesterday"}}, "Not a valid RFC 3339 timestamp: yesterday"),
        ({"created": {"gte": "2026-01-01T00:00:00"}}, "Not a valid RFC 3339 timestamp"),
        ({"limit": 0}, "limit: must be between 1 and 100"),
        ({"limit": 101}, "limit: must be between 1 and 100"),
        ({"page": "x"}, "the page token is not valid"),
        ({"created": {"since": "x"}}, "Received unknown parameter: created[since]"),
    ],
)
def test_what_the_api_refuses(ids: Ids, params: dict[str, Any], message: str) -> None:
    """An invalid query is answered 400, in the form of API v2."""
    with pytest.raises(stripe.InvalidRequestError) as raised:
        ids(**params)
    assert raised.value.http_status == 400
    assert message in str(raised.value.user_message)
