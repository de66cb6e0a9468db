"""The report on the inbox, on SQLite and on PostgreSQL."""

from __future__ import annotations

from dataclasses import replace

import pytest
import sqlalchemy as sa

from app.inbox import Inbox, NewEvent, Outcome
from app.inbox.models import Count
from app.inbox.sql import report as report_statements
from tests.support import raw_sql
from tests.support.inboxes import MakeInbox
from tests.support.services import Postgresql

EVENT = NewEvent("evt_1", "v1.customer.created", livemode=False, context=None, body=b"{}")
HOUR = 3600


def put(inbox: Inbox, url: str, event_id: str, changes: str) -> None:
    """Record an event, and apply ``changes`` to its row."""
    inbox.deliveries.record_skipped(replace(EVENT, id=event_id), Outcome.WRONG_MODE)
    raw_sql.execute(
        url,
        f"UPDATE events SET {changes} WHERE id = '{event_id}'",  # noqa: S608 - the tests' own words
    )


def test_empty_inbox(inbox: Inbox) -> None:
    """An empty inbox has no waiting and no dead event, and no host ran anything."""
    report = inbox.administration.report()
    assert (report.waiting, report.oldest, report.overdue) == (Count(0), 0.0, 0.0)
    assert (report.dead, report.hosts) == (Count(0), ())
    assert inbox.administration.oldest_due_seconds() == 0.0


def test_waiting_events(inbox: Inbox, database_url: str) -> None:
    """Pending events wait, and those whose process died. The oldest one gives the times."""
    wait = "state = 'pending', received_at = received_at - {}, due_at = due_at - {}"
    put(inbox, database_url, "evt_1", wait.format(2 * HOUR, HOUR))
    put(inbox, database_url, "evt_2", wait.format(HOUR, -HOUR))
    dead_runner = "state = 'running', lease_until = due_at - 1, due_at = due_at - 90"
    put(inbox, database_url, "evt_3", dead_runner)
    put(inbox, database_url, "evt_4", "state = 'running', lease_until = due_at + 600")
    put(inbox, database_url, "evt_5", "state = 'done'")

    report = inbox.administration.report()

    assert report.waiting == Count(3)
    assert 2 * HOUR <= report.oldest < 3 * HOUR
    assert HOUR <= report.overdue < 2 * HOUR
    assert HOUR <= inbox.administration.oldest_due_seconds() < 2 * HOUR


def test_planned_event_is_not_due(inbox: Inbox, database_url: str) -> None:
    """An event that waits for its retry does not count as due."""
    put(inbox, database_url, "evt_1", f"state = 'pending', due_at = due_at + {HOUR}")
    assert inbox.administration.oldest_due_seconds() == 0.0


def test_dead_are_counted(inbox: Inbox, database_url: str) -> None:
    """Each event that was given up on counts, and no other."""
    for event_id in ("evt_1", "evt_2"):
        put(inbox, database_url, event_id, "state = 'dead'")
    put(inbox, database_url, "evt_3", "state = 'done'")
    assert inbox.administration.report().dead == Count(2)


def test_counts_stop_at_their_bound(
    inbox: Inbox, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A count of pending events beyond the bound says that there are more."""
    for number in range(3):
        put(inbox, database_url, f"evt_{number}", "state = 'pending'")
    # Ten thousand events would take too long. The statement itself stops later.
    monkeypatch.setattr(report_statements, "BOUND", 2)
    assert inbox.administration.report().waiting == Count(2, is_bounded=True)


def test_counts_by_fallback(inbox: Inbox, database_url: str) -> None:
    """The events that the fallback took are counted by type.

    Events of the other mode and erased events are not: they cannot run here.
    """
    for event_id, changes in (
        *(("evt_1", "outcome = 'fallback'"), ("evt_2", "outcome = 'handled'")),
        *(("evt_3", "outcome = 'fallback', livemode = true"), ("evt_4", "outcome = 'fallback'")),
        ("evt_5", "outcome = 'fallback', erased_at = received_at"),
    ):
        put(inbox, database_url, event_id, changes)
    assert inbox.administration.counts_by_fallback(livemode=False) == {EVENT.type: 2}


def ran(inbox: Inbox, url: str, host: str, *hours_ago: float) -> None:
    """Have ``host`` run an event at each of these times."""
    for hours in hours_ago:
        changes = f"claimed_by = '{host}:1:ab', settled_at = settled_at - {hours * HOUR}"
        put(inbox, url, f"evt_{host}_{hours}", changes)


@pytest.mark.parametrize(
    ("runs", "suspects"),
    [
        ({"a": (5, 1)}, ()),
        ({"a": (5, 3), "b": (2, 1)}, ()),
        ({"a": (5, 2), "b": (3, 1)}, ("a", "b")),
        ({"a": (9, 1), "b": (3,), "c": (2,)}, ("a", "b", "c")),
        ({"a": (9, 7), "b": (6, 2), "c": (3, 1)}, ("b", "c")),
        ({"a": (40, 30), "b": (35, 1)}, ()),
    ],
    ids=["one", "replaced", "two", "long and short", "replaced, then two", "long ago"],
)
def test_hosts_in_turns_are_reported(
    runs: dict[str, tuple[float, ...]],
    suspects: tuple[str, ...],
    open_inbox: MakeInbox,
    sqlite_url: str,
) -> None:
    """On SQLite, hosts that ran events in the same hours of the last day are named."""
    inbox = open_inbox(sqlite_url)
    for host, hours in runs.items():
        ran(inbox, sqlite_url, host, *hours)
    assert inbox.administration.report().hosts == suspects


def test_postgresql_may_have_many_hosts(open_inbox: MakeInbox, postgresql_url: str) -> None:
    """Hosts that ran events in turns on PostgreSQL are not reported."""
    inbox = open_inbox(postgresql_url)
    ran(inbox, postgresql_url, "a", 5, 1)
    ran(inbox, postgresql_url, "b", 3)
    assert inbox.administration.report().hosts == ()


def test_commits_that_can_be_lost(open_inbox: MakeInbox, own_postgresql: Postgresql) -> None:
    """The setting with which PostgreSQL does not wait for its disk is reported."""
    own_postgresql.set("fsync", "on")
    assert open_inbox(own_postgresql.url).administration.report().not_durable == ()
    own_postgresql.set("fsync", "off")
    assert open_inbox(own_postgresql.url).administration.report().not_durable == ("fsync",)


@pytest.mark.parametrize(
    ("default", "used"),
    [("off", "on"), ("local", "local"), ("remote_apply", "remote_apply"), ("on", "on")],
)
def test_commits_are_synchronous_whatever_the_default(
    open_inbox: MakeInbox, postgresql_url: str, default: str, used: str
) -> None:
    """A weaker default than ``local`` is raised to ``on``. Stronger ones stay."""
    database = sa.make_url(postgresql_url).database
    raw_sql.execute(postgresql_url, f"ALTER DATABASE {database} SET synchronous_commit = {default}")
    inbox = open_inbox(postgresql_url)
    inbox.check()
    engine = inbox._store.engine  # noqa: SLF001 - no other way
    show = sa.text("SELECT current_setting('synchronous_commit')")

    assert engine.execute(show, {}) == (used,)
    assert engine.read(show, {})[0][0] == used
    with engine.migration() as connection:
        assert connection.execute(show).scalar_one() == used
    assert inbox.administration.report().not_durable == ()
