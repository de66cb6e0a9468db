"""The gauges of the inbox, on both databases."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace

import pytest
import sqlalchemy as sa

from app.errors import InboxUnavailable
from app.inbox import Activity, Failure, Gauges, Inbox, NewEvent, gauges
from app.inbox.activity import period_of
from app.inbox.sql.gauges import NUMBERS
from app.metrics import state
from app.metrics.state import InboxState
from tests.support import raw_sql

EVENT = NewEvent("evt_1", "v1.customer.created", livemode=False, context=None, body=b"{}")


def values(collected: InboxState) -> dict[str, float]:
    """Return the values of a scrape, by name and label."""
    samples = [sample for metric in collected.collect() for sample in metric.samples]
    return {"".join([each.name, *each.labels.values()]): each.value for each in samples}


def test_events(inbox: Inbox, database_url: str) -> None:
    """Events count under their state. The oldest due one gives the age."""
    for number in range(6):
        inbox.deliveries.enqueue(replace(EVENT, id=f"evt_{number}"))
    raw_sql.execute(database_url, "UPDATE events SET state = 'dead' WHERE id < 'evt_3'")
    raw_sql.execute(database_url, "UPDATE events SET state = 'running' WHERE id = 'evt_3'")
    raw_sql.execute(database_url, "UPDATE events SET due_at = due_at - 60 WHERE id = 'evt_4'")
    found = values(InboxState(inbox.gauges))
    assert found["stripe_receiver_eventspending"] == 2
    assert found["stripe_receiver_eventsrunning"] == 1
    assert found["stripe_receiver_eventsdead"] == 3
    assert 60 <= found["stripe_receiver_oldest_due_age_seconds"] < 120


def test_release(inbox: Inbox) -> None:
    """The build has the release of the code."""
    found = InboxState(inbox.gauges, "41c9").collect()
    (build,) = [each for each in found if each.name == "stripe_receiver_build_info"]
    assert [(each.labels["release"], each.value) for each in build.samples] == [("41c9", 1)]


def test_counts_use_indexes(sqlite_url: str) -> None:
    """Counting the events of a state never walks through the table."""
    with contextlib.closing(Inbox(sqlite_url, lease_seconds=600)) as inbox:
        inbox.migrate()
    engine = raw_sql.make_engine(sqlite_url)
    counting = NUMBERS.compile(engine, compile_kwargs={"literal_binds": True})
    with engine.connect() as connection:
        plan = connection.execute(sa.text(f"EXPLAIN QUERY PLAN {counting}")).all()
    engine.dispose()
    steps = [row.detail for row in plan if " events" in row.detail]
    assert len(steps) == 3
    assert [step for step in steps if " INDEX " not in step] == []


def test_last_deliveries(inbox: Inbox) -> None:
    """Each signing secret has the time of its last delivery."""
    now = time.time()
    inbox.activity.add([Activity("secret", "2", period_of(now), 1, now - 60)])
    found = values(InboxState(inbox.gauges))
    assert found["stripe_receiver_last_delivery_timestamp_seconds2"] == now - 60
    assert found["stripe_receiver_inbox_up"] == 1


def test_error_groups(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The groups that failed last have a series each, and no more than a bound."""
    monkeypatch.setattr(gauges, "MOST_GROUPS", 2)  # no mock: fewer groups reach the bound
    for number, exception in enumerate(("", "KeyError", "ValueError")):
        claim = inbox.deliveries.record_and_claim(replace(EVENT, id=f"evt_{number}")).claim
        assert claim is not None
        failure = Failure("no", fingerprint=f"f00{number}", exception=exception, place="a.py:1")
        inbox.claims.fail(claim, failure)
        time.sleep(0.002)  # SQLite's clock has milliseconds
    found = values(InboxState(inbox.gauges))
    opened = {name: value for name, value in found.items() if "error_group" in name}
    assert opened == {
        "stripe_receiver_error_group_openf002ValueError": 1,
        "stripe_receiver_error_group_openf001KeyError": 1,
    }
    monkeypatch.setattr(gauges, "MOST_GROUPS", 3)
    assert values(InboxState(inbox.gauges))["stripe_receiver_error_group_openf000unknown"] == 1


def test_destinations_and_alerts(inbox: Inbox) -> None:
    """Each destination that the watch knows has a series, and each alert that is raised."""
    for name, status in (("ed_1", "enabled"), ("ed_2", "disabled")):
        inbox.findings.record(f"destination_disabled:{name}", "ok", "", {"status": status})
    inbox.findings.record("clock_off", "ok", "")
    for group in ("9f2c", "41c9"):
        assert inbox.alerts.raise_(
            f"dead_events:{group}",
            alert="dead_events",
            group=group,
            since=0.0,
            number=1,
            before="",
            details={},
        )
    found = values(InboxState(inbox.gauges))
    assert {name: value for name, value in found.items() if "destination" in name} == {
        "stripe_receiver_destination_enableded_1": 1,
        "stripe_receiver_destination_enableded_2": 0,
    }
    assert found["stripe_receiver_alertsdead_events"] == 2


def test_queries_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scrapes within five seconds share one read of the inbox."""
    reads: list[int] = []

    def read() -> Gauges:
        reads.append(1)
        return Gauges({"dead": len(reads)}, 0.0, {})

    collected = InboxState(read)
    assert values(collected)["stripe_receiver_eventsdead"] == 1
    assert values(collected)["stripe_receiver_eventsdead"] == 1
    monkeypatch.setattr(state, "CACHE_SECONDS", 0.0)  # no mock: time that has passed
    assert values(collected)["stripe_receiver_eventsdead"] == 2


def test_inbox_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the inbox there is no gauge of it, rather than one of an earlier time."""
    answers: list[Gauges | None] = [Gauges({"dead": 1}, 0.0, {}), None]

    def read() -> Gauges:
        found = answers.pop(0)
        if found is None:
            raise InboxUnavailable("the inbox is not available", reason="gone")
        return found

    monkeypatch.setattr(state, "CACHE_SECONDS", 0.0)  # no mock: time that has passed
    collected = InboxState(read)
    assert "stripe_receiver_eventsdead" in values(collected)
    found = values(collected)
    assert "stripe_receiver_eventsdead" not in found
    assert found["stripe_receiver_inbox_up"] == 0
