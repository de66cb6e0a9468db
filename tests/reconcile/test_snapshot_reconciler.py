"""Snapshot events that Stripe has and the inbox lacks are backfilled from a list of their own."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

import pytest
import stripe

from app.reconcile import listing, windows
from app.states import Outcome
from app.stripe_api.catalog import Kind, module_name
from devkit import samples
from tests.reconcile.conftest import CREATED, HANDLER, HOUR, SNAPSHOT, TYPE, Lab, OddList

PATHS = {"/v2/core/events": Kind.THIN, "/v1/events": Kind.SNAPSHOT}
MODULES = {
    "customer_source_created": "calls = []\ndef handle(event, client):\n"
    "    calls.append((event, client.v1.customers.retrieve('cus_1').id))\n"
}

MakeLab = Callable[..., Lab]


@pytest.fixture
def lab(make_lab: MakeLab) -> Lab:
    """A service with one snapshot module, in inline mode."""
    return make_lab(MODULES)


def queries(lab: Lab) -> list[dict[str, list[str]]]:
    """Return the parameters of the requests for the list of snapshot events."""
    return [parse_qs(asked.query) for asked in lab.api.asked if asked.path == "/v1/events"]


class TestFind:
    """Which snapshot events are missing."""

    def test_missing_events_are_found(self, lab: Lab) -> None:
        """The missing events of handled types are returned, the oldest first."""
        lab.receiver.deliver(lab.put_snapshot("evt_1"))
        lab.put_snapshot("evt_2", HOUR / 2)
        lab.put_snapshot("evt_3", 2 * HOUR)
        lab.put_snapshot("evt_4", event_type="customer.created")
        assert lab.missing() == ["evt_3", "evt_2"]

    def test_each_kind_is_read_from_its_list(self, make_lab: MakeLab) -> None:
        """A service with modules of both kinds reads both lists, and sorts the events by time."""
        lab = make_lab({CREATED: HANDLER, **MODULES})
        lab.put("evt_1", 3 * HOUR)
        lab.put_snapshot("evt_2", 2 * HOUR)
        lab.put("evt_3", HOUR)
        assert lab.missing() == ["evt_1", "evt_2", "evt_3"]
        assert [asked.path for asked in lab.api.asked] == list(PATHS)
        lab.close()
        assert set(lab.reached()) == {TYPE, SNAPSHOT}

    def test_window_has_types_of_one_kind(self, make_lab: MakeLab) -> None:
        """Each list takes twenty types in one request, and only those of its kind."""
        types = [*samples.event_types(Kind.THIN)[:21], *samples.event_types(Kind.SNAPSHOT)[:21]]
        lab = make_lab({module_name(type_): HANDLER for type_ in types})
        read = [(window.kind, len(window.types)) for window in lab.close().windows]
        assert read == [(Kind.THIN, 20), (Kind.THIN, 1), (Kind.SNAPSHOT, 20), (Kind.SNAPSHOT, 1)]
        assert [PATHS[asked.path] for asked in lab.api.asked] == [kind for kind, _ in read]
        assert set(lab.reached()) == set(types)

    def test_query(self, lab: Lab) -> None:
        """It names the types and whole seconds. It selects no undelivered events."""
        (window,) = lab.close().windows
        (query,) = queries(lab)
        assert query == {
            "types[0]": [SNAPSHOT],
            "created[gte]": [str(window.begin)],
            "created[lt]": [str(window.end)],
            "limit": ["100"],
        }
        reached = lab.inbox.reconciliation.watermarks(livemode=False, context="")
        assert reached == {SNAPSHOT: window.end}

    def test_event_that_stripe_never_sent(self, lab: Lab) -> None:
        """An event from a time without a destination waits for no webhook, and is missing."""
        lab.api.put_event({**lab.put_snapshot("evt_1"), "pending_webhooks": 0})
        assert lab.missing() == ["evt_1"]

    def test_end_of_a_window(self, lab: Lab) -> None:
        """A window ends with a whole second, and the watermark with it.

        An event has the second of its creation. With a later watermark, the next window could begin
        after events of the same second that the list did not have yet.
        """
        window = lab.close().windows[0]
        assert isinstance(window.end, int)
        assert window.end <= time.time() - windows.LIST_LAG_SECONDS
        assert lab.close().windows[0].begin == window.end - windows.OVERLAP_SECONDS

    def test_all_pages_of_an_account(self, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each page is read for the account, also while the list changes."""
        monkeypatch.setattr(listing, "PAGE", 2)
        for number in range(5):
            lab.put_snapshot(f"evt_{number}", HOUR - 10 * number, account="acct_1")
        lab.api.events.after_page(
            2, lambda: lab.put_snapshot("evt_new", HOUR / 2, account="acct_1")
        )
        assert lab.missing("acct_1") == [f"evt_{number}" for number in range(5)]
        contexts = [asked.stripe_context for asked in lab.api.asked]
        assert contexts == [None, "acct_1", "acct_1", "acct_1"]
        starts = [query.get("starting_after") for query in queries(lab)]
        assert starts == [None, None, ["evt_3"], ["evt_1"]]

    @pytest.mark.parametrize("status", [403, 500])
    def test_error(self, make_lab: MakeLab, status: int) -> None:
        """No watermark moves if one of the two lists cannot be read."""
        lab = make_lab({CREATED: HANDLER, **MODULES})
        lab.api.fail("/v1/events", status=status, times=3)
        with pytest.raises(stripe.StripeError):
            lab.close()
        assert lab.reached() == {}

    @pytest.mark.parametrize(
        "item",
        [
            "evt_1",
            {"object": "event"},
            {"id": "evt_1", "object": "event", "type": SNAPSHOT},
            {"id": "evt_1", "object": "event", "type": SNAPSHOT, "created": 1e30},
        ],
    )
    def test_item_that_is_no_event(self, lab: Lab, item: object) -> None:
        """A list with an item that is no event, or has no time, is an error of the API."""
        lab.api.events = OddList([item])
        with pytest.raises(stripe.APIError, match="a listed event cannot be read"):
            lab.missing()


class TestRecord:
    """A missing snapshot event is recorded as if it had been delivered."""

    def test_backfilled_event_equals_a_delivered_one(self, make_lab: MakeLab) -> None:
        """Its body has each value of the event, also decimal numbers. Only its source differs."""
        lab = make_lab({"price_created": MODULES["customer_source_created"]})
        fields = {"unit_amount_decimal": "10.50", "metadata": {"a": "\u00e9"}}
        body = lab.put_snapshot(
            "evt_1", event_type="price.created", account="acct_1", fields=fields
        )
        lab.close("acct_1")
        event = lab.receiver.event("evt_1")
        assert json.loads(event.body) == body
        assert (event.type, event.livemode, event.context) == ("price.created", False, "acct_1")
        lab.api.put("/v1/customers/cus_1", {"id": "cus_1", "object": "customer"})
        lab.receiver.deliver({**body, "id": "evt_2"})
        assert lab.receiver.event("evt_2").concurrency_key == event.concurrency_key
        assert (event.source, lab.receiver.event("evt_2").source) == ("reconcile", "delivery")

    @pytest.mark.parametrize(
        ("account", "added"),
        [
            ("acct_1", {"account": "acct_1"}),
            ("acct_1/acct_2", {"account": "acct_2", "context": "acct_1/acct_2"}),
        ],
    )
    def test_account_is_that_of_the_list(
        self, lab: Lab, account: str, added: dict[str, str]
    ) -> None:
        """An event that names no account belongs to the account whose list has it."""
        body = samples.snapshot_event(SNAPSHOT, event_id="evt_1")
        lab.api.fail("/v1/events", status=403)  # for the account of the key
        lab.api.events = OddList([body])
        (missing,) = lab.reconciler.find([account]).missing
        assert missing.event.context == account
        assert json.loads(missing.event.body) == {**body, **added}

    def test_time_is_comparable_to_that_of_thin_events(self, lab: Lab) -> None:
        """It has the form of the other list, in milliseconds."""
        body = lab.put_snapshot("evt_1")
        (missing,) = lab.reconciler.find([]).missing
        written = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(body["created"]))
        assert missing.created == written


def test_inline_mode_runs_the_events(lab: Lab) -> None:
    """The callback gets the event, and a client of its account."""
    lab.put_snapshot("evt_1", account="acct_1")
    lab.api.put("/v1/customers/cus_1", {"id": "cus_1", "object": "customer"})
    lab.close("acct_1")
    ran: list[Any] = [
        (claim.event_id, outcome) for claim, outcome in lab.reconciler.run_unfinished()
    ]
    assert ran == [("evt_1", Outcome.HANDLED)]
    ((event, customer),) = lab.receiver.module("customer_source_created").calls
    assert (type(event), event.id, event.account, customer) == (
        stripe.Event,
        "evt_1",
        "acct_1",
        "cus_1",
    )
    assert lab.api.asked[-1].stripe_context == "acct_1"
