"""The task that removes old events: when it runs, how far, and what it logs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
from structlog.testing import capture_logs

from app.inbox import Failure, Inbox, NewEvent
from app.inbox import retention as retaining
from app.inbox.retention import DAY_SECONDS
from app.maintenance import retention
from app.maintenance.retention import Pruner
from tests.conftest import Receiver
from tests.support import raw_sql


@pytest.fixture
def inbox(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Inbox]:
    """An inbox with four old events and a new one, of which a step looks at two."""
    monkeypatch.setattr(retaining, "ROWS", 2)
    monkeypatch.setattr(retention, "MIN_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(retention, "PAUSE_RATIO", 0.0)
    inbox = Inbox(sqlite_url, lease_seconds=600)
    for number in range(5):
        event = NewEvent(f"evt_{number}", "v1.a", livemode=False, context=None, body=b"{}")
        claim = inbox.deliveries.record_and_claim(event).claim
        assert claim is not None
        inbox.claims.finish(claim)
    raw_sql.execute(
        sqlite_url,
        f"UPDATE events SET received_at = received_at - {50 * DAY_SECONDS},"  # noqa: S608 - the test's own
        f" settled_at = settled_at - {50 * DAY_SECONDS} WHERE id <> 'evt_4'",
    )
    yield inbox
    inbox.close()


def count(inbox: Inbox) -> int:
    """Return the number of events."""
    return len(inbox.administration.latest(10))


def test_round_removes_all_old_events(inbox: Inbox) -> None:
    """It logs how many. After that it looks again an hour later."""
    pruner = Pruner(inbox.retention, 45, threading.Event())
    with capture_logs() as logs:
        pruner.run()
        pruner.run()
    assert count(inbox) == 1
    assert logs == [{"event": "events_pruned", "log_level": "info", "count": 4, "days": 45}]


def test_stop_ends_a_round(inbox: Inbox) -> None:
    """A stopping process waits for one step at most."""
    stopping = threading.Event()
    stopping.set()
    Pruner(inbox.retention, 45, stopping).run()
    assert count(inbox) == 3


def test_next_round_continues(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """A round has an end. The next one begins where it stopped, and the last one at the start.

    The first round finds only events that stay.
    """
    monkeypatch.setattr(retention, "ROUND_SECONDS", -1.0)
    for number in (0, 1):
        inbox.administration.reopen(f"evt_{number}", by="me", again=True)
    pruner = Pruner(inbox.retention, 45, threading.Event())
    left = []
    for _ in range(3):
        pruner.run()
        left.append(count(inbox))
    assert left == [5, 3, 3]
    assert pruner._place == retaining.START  # noqa: SLF001 - no other way
    assert pruner._next_at > time.monotonic()  # noqa: SLF001 - no other way


@pytest.mark.parametrize(("days", "count"), [(31, 1), (0, 0)])
def test_task_is_there_unless_events_are_kept_for_ever(
    make_receiver: Callable[..., Receiver], days: int, count: int
) -> None:
    """One process at a time removes events, and none with 0 days."""
    tasks = make_receiver(retention_days=days).services.maintenance._tasks  # noqa: SLF001 - no other way
    leaders = [each.by_leader for each in tasks if each.name == "retention"]
    assert leaders == [True] * count


def test_old_records_of_operators_are_removed(
    make_receiver: Callable[..., Receiver], database_url: str
) -> None:
    """Counts of error groups stay for 90 days, the audit log for two years, activity for a week."""
    services = make_receiver(database_url=database_url).services
    day = time.time() // DAY_SECONDS
    services.inbox.check()
    prefix = "INSERT INTO stripe_receiver_"
    for name, age in (("old", 91), ("dead", 91), ("new", 89)):
        at = (day - age) * DAY_SECONDS
        values = f"('{name}', NULL, NULL, 'v1.a', {at}, {at}, 1, 'evt_1', NULL)"
        raw_sql.execute(database_url, f"{prefix}error_groups VALUES {values}")
        hour = f"('{name}', {int(at // 3600)}, '', 1)"
        raw_sql.execute(database_url, f"{prefix}error_hours VALUES {hour}")
    columns = '(at, "by", action)'
    for age in (729, 731):
        entry = f"{columns} VALUES ({(day - age) * DAY_SECONDS}, '{age}', 'pause')"
        raw_sql.execute(database_url, f"{prefix}audit {entry}")
    for age in (1, 100):
        period = f"VALUES ('attempt', 'failed', {int((day - age) * 288)}, 1, 1)"
        raw_sql.execute(database_url, f"{prefix}activity {period}")
    event = NewEvent("evt_1", "v1.a", livemode=False, context=None, body=b"{}")
    claim = services.inbox.deliveries.record_and_claim(event).claim
    assert claim is not None
    services.inbox.claims.mark_dead(claim, "gave_up", Failure("no", fingerprint="dead"))
    raw_sql.execute(
        database_url,
        "UPDATE stripe_receiver_error_groups SET last_at = first_at WHERE fingerprint = 'dead'",
    )

    (task,) = [each for each in services.maintenance._tasks if each.name == "old_records"]  # noqa: SLF001 - no other way
    assert task.by_leader is True
    task.run()

    def left(table: str, column: int) -> set[str]:
        rows = raw_sql.select(database_url, f"stripe_receiver_{table}")
        return {str(row[column]) for row in rows}

    assert left("error_groups", 0) == {"dead", "new"}
    assert left("error_hours", 1) >= {str(int((day - 89) * 24))}
    assert str(int((day - 91) * 24)) not in left("error_hours", 1)
    assert left("audit", 2) == {"729"}
    assert len(left("activity", 2)) == 1


def test_pause_is_in_proportion_to_the_step(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The longer a step takes, the longer deliveries have the inbox alone."""
    monkeypatch.setattr(retention, "PAUSE_RATIO", 1e9)
    pauses: list[float] = []
    before = inbox.retention.days_ago(45)
    assert sum(each for each, _ in retention.prune(inbox.retention, before, pauses.append)) == 4
    assert len(pauses) == 2
    assert min(pauses) > 1e3
