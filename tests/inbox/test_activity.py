"""The counters of activity, on SQLite and on PostgreSQL."""

from __future__ import annotations

import time

import pytest

from app.inbox import Activity, Inbox
from app.inbox.activity import PERIOD_SECONDS, ROWS, WorkerThreads, period_of
from tests.support import raw_sql

DAY = 86400


def activity(name: str, number: int, at: float, kind: str = "delivery") -> Activity:
    """Return a counter of the period at ``at``."""
    return Activity(kind, name, period_of(at), number, at)


def test_counts_are_added(inbox: Inbox) -> None:
    """The counts of two processes add up, and the later time stays."""
    now = PERIOD_SECONDS * period_of(time.time()) - PERIOD_SECONDS
    inbox.activity.add([activity("handled", 2, now + 9), activity("failed", 1, now + 1)])
    inbox.activity.add([activity("handled", 3, now + 5)])
    assert inbox.activity.since(now) == [
        activity("failed", 1, now + 1),
        activity("handled", 5, now + 9),
    ]


def test_nothing_is_added(inbox: Inbox) -> None:
    """An empty list needs no statement."""
    inbox.activity.add([])
    assert inbox.activity.since(0) == []


def test_many_counts_at_once(inbox: Inbox) -> None:
    """After an outage, more counters are added than fit into one statement."""
    now = time.time() - DAY
    rows = [activity(f"reason_{each:03}", each, now, "rejection") for each in range(1, 2 * ROWS)]
    inbox.activity.add(rows)
    assert inbox.activity.since(now) == rows


def test_periods(inbox: Inbox) -> None:
    """Each period has its own counter. Reading begins with the period of the given time."""
    now = time.time()
    hour = [now - 3600, now - 1800, now - 900]
    inbox.activity.add([activity("handled", 1, at) for at in hour])
    assert [each.bucket for each in inbox.activity.since(hour[1])] == [
        period_of(hour[1]),
        period_of(hour[2]),
    ]


def test_clock_ahead(inbox: Inbox) -> None:
    """A process whose clock is ahead does not hide that no further delivery comes."""
    inbox.activity.add([activity("1", 1, time.time() + DAY, "secret")])
    assert inbox.activity.last_deliveries()["1"] == pytest.approx(time.time(), abs=60)


def test_last_deliveries(inbox: Inbox) -> None:
    """Each signing secret has the time of its last delivery."""
    now = time.time()
    at = {"1": [now - 3600, now - 60], "2": [now - 7200]}
    for secret, times in at.items():
        inbox.activity.add([activity(secret, 1, each, "secret") for each in times])
    inbox.activity.add([activity("handled", 1, now)])
    assert inbox.activity.last_deliveries() == {"1": now - 60, "2": now - 7200}


def test_prune(inbox: Inbox) -> None:
    """After eight days a counter goes, but not the time of the last delivery under a secret."""
    now = time.time()
    old, older, recent = now - 9 * DAY, now - 10 * DAY, now - 7 * DAY
    inbox.activity.add([activity("handled", 1, at) for at in (old, recent)])
    inbox.activity.add([activity("1", 1, at, "secret") for at in (older, old)])
    inbox.activity.prune()
    assert inbox.activity.since(0) == [
        activity("1", 1, old, "secret"),
        activity("handled", 1, recent),
    ]
    assert inbox.activity.last_deliveries() == {"1": old}


class TestWorkerThreads:
    """The worker threads of all processes."""

    def test_processes_add_up(self, inbox: Inbox, database_url: str) -> None:
        """Each process has its latest numbers. A process that records none any more has ended."""
        for process, busy, idle in (("a:1", 0, 8), ("b:1", 1, 3), ("a:1", 2, 6)):
            inbox.activity.show_threads(process, busy, idle)
        assert inbox.activity.threads() == WorkerThreads(busy=3, idle=9)
        for late in ("- 20", "+ 20"):  # it has died; or it has, and the clock stepped back
            sql = f"UPDATE stripe_receiver_activity SET last_at = last_at {late} WHERE name = 'a:1'"  # noqa: S608 - the test's own words
            raw_sql.execute(database_url, sql)
            assert inbox.activity.threads() == WorkerThreads(busy=1, idle=3)
            inbox.activity.show_threads("a:1", 2, 6)
        assert inbox.activity.threads().all == 12

    def test_ended_processes_are_forgotten(self, inbox: Inbox, database_url: str) -> None:
        """Pruning removes the rows of processes that ended, and no others."""
        inbox.activity.show_threads("a:1", 0, 8)
        raw_sql.execute(database_url, "UPDATE stripe_receiver_activity SET last_at = 1000")
        inbox.activity.show_threads("b:1", 0, 8)
        inbox.activity.prune()
        names = raw_sql.select(database_url, "stripe_receiver_activity")
        assert {row[1] for row in names} == {"b:1"}
        assert inbox.activity.since(0) == []
