"""The numbers of open events by hour, and the size of the inbox, on both databases."""

from __future__ import annotations

import time
from contextlib import closing

import pytest

from app.inbox import Inbox, NewEvent
from app.states import State
from tests.support import raw_sql

HOUR = 3600


def test_open_events_by_hour(database_url: str) -> None:
    """Pending and dead events count in the hour of their receipt. Others and older ones do not."""
    start = 500_000 * HOUR
    rows = [
        ("pending", start + 1.0),
        ("pending", start + HOUR - 1.0),
        ("dead", start + 2.0 * HOUR),
        ("pending", start + 2.0 * HOUR + 3),
        ("done", start + 1.0),
        ("dead", start - 1.0),
    ]
    with closing(Inbox(database_url, lease_seconds=30)) as inbox:
        inbox.migrate()
        for number, _ in enumerate(rows):
            inbox.deliveries.enqueue(
                NewEvent(f"evt_{number}", "v1.x", livemode=False, context=None, body=b"{}")
            )
        for number, (state, at) in enumerate(rows):
            change = f"UPDATE events SET state = '{state}', received_at = {at}"  # noqa: S608 - the test's own
            raw_sql.execute(database_url, f"{change} WHERE id = 'evt_{number}'")
        found = inbox.overview.open_by_hour(start)
    assert found == {
        (State.PENDING, 500_000): 2,
        (State.DEAD, 500_002): 1,
        (State.PENDING, 500_002): 1,
    }


def test_extent(database_url: str) -> None:
    """The size is that of the database. An inbox without events has no oldest one."""
    with closing(Inbox(database_url, lease_seconds=30)) as inbox:
        inbox.migrate()
        empty = inbox.overview.extent()
        event = NewEvent("evt_1", "v1.x", livemode=False, context=None, body=b"{}")
        inbox.deliveries.enqueue(event)
        full = inbox.overview.extent()
    assert empty.first_received_at is None
    assert full.first_received_at == pytest.approx(time.time(), abs=60)
    assert 50_000 < empty.size <= full.size < 100_000_000
