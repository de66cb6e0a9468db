"""The watch of a service with handler modules of both kinds."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import stripe

from app.watch import gap
from devkit import samples
from devkit.destinations import PATH
from tests.conftest import SECRET
from tests.watch.conftest import MODULES, TYPES, URL, Watched

SNAPSHOT, OTHER = "customer.source.created", "invoice.paid"
SNAPSHOTS = {
    "customer_source_created": "def handle(event, client): pass\n",
    "invoice_paid": "def handle(event, client): pass\n",
}

MakeWatched = Callable[..., Watched]


@pytest.fixture
def both(make_watched: MakeWatched) -> Watched:
    """A service with handlers of both kinds, and a thin destination."""
    watched = make_watched({**MODULES, **SNAPSHOTS})
    watched.add_destination()
    return watched


def add_snapshot(watched: Watched, *types: str, **fields: Any) -> str:
    """Add a snapshot destination that exists for a long time."""
    values = {"snapshot_api_version": stripe.api_version, **fields}
    chosen = list(types) or [SNAPSHOT, OTHER]
    return watched.add_destination(types=chosen, event_payload="snapshot", **values)


def put_snapshot(watched: Watched, event_id: str, minutes: float, **fields: Any) -> dict[str, Any]:
    """Add a snapshot event that is so many minutes old to its list. Returns its body."""
    created = datetime.now(UTC) - timedelta(minutes=minutes)
    body = {**samples.snapshot_event(SNAPSHOT, event_id=event_id, created=created), **fields}
    watched.api.put_event(body)
    return body


def test_all_well(both: Watched) -> None:
    """Both destinations have a finding. A round reads both lists."""
    name = f"destination_disabled:{add_snapshot(both)}"
    assert both.levels() == {}
    finding = both.look()["types_drifted"]
    assert finding.text == "4 handled types are enabled at Stripe"
    details = both.look()[name].details
    assert (details["payload"], details["problems"]) == (f"snapshot ({stripe.api_version})", [])
    assert [each.path for each in both.api.asked[:3]] == [PATH, "/v2/core/events", "/v1/events"]


class TestTypes:
    """The types of each kind have to be enabled at a destination of this kind."""

    def test_no_destination_of_the_kind(self, both: Watched) -> None:
        """Its types are missing, and the remedy creates a destination."""
        both.look()
        finding = both.look()["types_drifted"]
        assert (finding.level, finding.details["types"]) == ("fail", [SNAPSHOT, OTHER])
        assert finding.text.endswith(
            f"{SNAPSHOT}, {OTHER}. Run `flask destination create --url {URL} --payload snapshot`"
        )
        add_snapshot(both)
        assert both.levels() == {}

    def test_types_of_both_kinds(self, make_watched: MakeWatched) -> None:
        """One finding names the missing types, and a remedy for each kind."""
        watched = make_watched({**MODULES, **SNAPSHOTS})
        thin = watched.add_destination(types=TYPES[:1])
        snapshot = add_snapshot(watched, SNAPSHOT)
        finding = watched.look()["types_drifted"]
        assert finding.details["types"] == [OTHER, TYPES[1]]
        remedies = (f"`flask destination sync {name}`" for name in (thin, snapshot))
        assert finding.text.endswith(" and ".join(remedies))

    def test_disabled_destination(self, both: Watched) -> None:
        """Its types are no second finding: it has one of its own."""
        found = add_snapshot(both, status="disabled")
        assert both.levels() == {f"destination_disabled:{found}": "fail"}

    def test_wildcard_and_api_version(self, both: Watched) -> None:
        """Both are warnings, and no alerts."""
        found = add_snapshot(both, "*", snapshot_api_version="2024-06-20")
        levels = both.levels()
        assert levels == {f"destination_disabled:{found}": "warn", "types_drifted": "warn"}
        text = both.look()[f"destination_disabled:{found}"].text
        assert "Its objects are of API version 2024-06-20" in text
        assert "Its event types are *" in text
        assert both.alerts() == []


class TestGap:
    """The list of each kind is compared with the inbox."""

    def test_missing(self, both: Watched) -> None:
        """Events of both kinds that did not arrive are one finding, and an alert."""
        add_snapshot(both)
        thin, snapshot = both.put_event("evt_1", 30), put_snapshot(both, "evt_2", 30)
        put_snapshot(both, "evt_new", 5)
        put_snapshot(both, "evt_old", 90)
        finding = both.look()["reconcile_gap"]
        assert (finding.details["number"], finding.details["types"]) == (2, [SNAPSHOT, TYPES[0]])
        assert both.alerts() == ["reconcile_gap"]
        for body in (thin, snapshot):
            both.service.deliver(body, secret=SECRET)
        assert both.levels() == {}

    def test_connected_account(self, both: Watched) -> None:
        """An account is compared in both lists, and named once."""
        (thin,) = both.api.destinations.ids
        both.api.destinations.change(thin, events_from=["@self", "@accounts"])
        add_snapshot(both, events_from=["@accounts"])
        known = both.put_event("evt_1", 90, "acct_1")
        both.service.deliver(known, secret=SECRET)
        both.put_event("evt_2", 30, "acct_1")
        put_snapshot(both, "evt_3", 30, account="acct_1")
        put_snapshot(both, "evt_own", 30)
        details = both.look()["reconcile_gap"].details
        assert (details["number"], details["accounts"]) == (2, ["acct_1"])

    def test_what_is_not_sent_here(self, both: Watched) -> None:
        """A kind is compared for its own enabled types, since its own destination is there."""
        put_snapshot(both, "evt_1", 30)
        assert "reconcile_gap" not in both.levels()
        found = add_snapshot(both, OTHER)
        assert "reconcile_gap" not in both.levels()
        both.api.destinations.change(found, enabled_events=["*"])
        assert "reconcile_gap" in both.levels()
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        both.api.destinations.change(found, created=now)
        assert "reconcile_gap" not in both.levels()

    def test_busy_hour(self, both: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
        """If there are more events than a round reads, undelivered ones are read, too."""
        monkeypatch.setattr(gap, "PAGES", 1)
        monkeypatch.setattr(gap, "PAGE", 2)
        add_snapshot(both)
        for minutes in (20, 21, 22):
            body = put_snapshot(both, f"evt_{minutes}", minutes, pending_webhooks=0)
            both.service.deliver(body, secret=SECRET)
        put_snapshot(both, "evt_lost", 40)
        assert both.look()["reconcile_gap"].details["number"] == 1
        queries = [each.query for each in both.api.asked if each.path == "/v1/events"]
        assert ["delivery_success=false" in query for query in queries] == [False, True]
