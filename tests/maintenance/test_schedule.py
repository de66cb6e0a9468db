"""The regular tasks of a process, and their leaders."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import pytest

from app.errors import InboxUnavailable
from app.inbox import Inbox
from app.maintenance import schedule
from app.maintenance.schedule import Maintenance, Task
from tests.conftest import Receiver
from tests.support import raw_sql
from tests.support.waiting import wait_for


def test_task_runs_again_and_again_until_the_stop(sqlite_url: str) -> None:
    """Each task has a thread, and ends with the process."""
    inbox, stopping, runs = Inbox(sqlite_url, lease_seconds=30), threading.Event(), []
    task = Task("count", 0.01, lambda: runs.append(1))
    Maintenance([task], inbox.reconciliation, stopping).start()

    wait_for(lambda: len(runs) > 2)
    stopping.set()

    wait_for(lambda: "maintenance-count" not in [each.name for each in threading.enumerate()])
    inbox.close()


def test_task_can_run_at_the_start(sqlite_url: str) -> None:
    """Such a task does not wait for its first interval."""
    inbox, stopping, ran = Inbox(sqlite_url, lease_seconds=30), threading.Event(), threading.Event()
    Maintenance(
        [Task("count", 3600, ran.set, at_start=True)], inbox.reconciliation, stopping
    ).start()

    assert ran.wait(10)
    stopping.set()
    wait_for(lambda: "maintenance-count" not in [each.name for each in threading.enumerate()])
    inbox.close()


def test_one_process_leads(database_url: str) -> None:
    """A task of leaders runs in the first process that asks, and in that one only."""
    runs: list[str] = []
    inboxes = [Inbox(database_url, lease_seconds=30) for _ in range(2)]
    for name in ("first", "second", "first"):
        inbox = inboxes[name == "second"]
        task = Task("prune", 1.0, partial(runs.append, name), by_leader=True)
        Maintenance([], inbox.reconciliation, threading.Event()).run_once(task, name)

    assert runs == ["first", "first"]
    for inbox in inboxes:
        inbox.close()


def test_leader_of_short_rounds_stays(database_url: str) -> None:
    """Its term is longer than three rounds, and than 30 s: a slow round does not end it."""
    inbox = Inbox(database_url, lease_seconds=30)
    maintenance = Maintenance([], inbox.reconciliation, threading.Event())
    for name, seconds in (("short", 1.0), ("long", 50.0)):
        maintenance.run_once(Task(name, seconds, lambda: None, by_leader=True), "me")
    begin = inbox.rescue.clock()
    terms = {name: until - begin for name, _, until, _ in raw_sql.select(database_url, "leaders")}
    assert 20 < terms["short"] <= 30
    assert 140 < terms["long"] <= 150
    inbox.close()


def test_long_interval_counts_for_all_processes(database_url: str) -> None:
    """The task of a leader with a long interval runs once in it, in the first process that asks."""
    runs: list[str] = []
    inbox = Inbox(database_url, lease_seconds=30)

    made = (Maintenance([], inbox.reconciliation, threading.Event()) for _ in range(2))
    processes = dict(zip(("first", "second"), made, strict=True))

    def ask(name: str) -> None:
        task = Task("old_records", 3600.0, partial(runs.append, name), by_leader=True)
        processes[name].run_once(task, name)

    for name in ("first", "first", "second"):
        ask(name)
    assert runs == ["first"]
    raw_sql.execute(database_url, "UPDATE leaders SET until = 0")
    for name in ("second", "first"):
        ask(name)
    assert runs == ["first", "second"]
    inbox.close()


def test_long_interval_is_asked_for_soon(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process asks long before an interval is over: it may not live that long."""
    monkeypatch.setattr(schedule, "POLL_SECONDS", 0.01)
    runs: list[int] = []
    inbox, stopping = Inbox(sqlite_url, lease_seconds=30), threading.Event()
    task = Task("old_records", 3600.0, partial(runs.append, 1), by_leader=True)
    Maintenance([task], inbox.reconciliation, stopping).start()
    wait_for(lambda: runs == [1])
    stopping.set()
    inbox.close()


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (InboxUnavailable("the inbox is not available", reason="is away"), "is away"),
        (ValueError("is no number"), "ValueError: is no number"),
    ],
)
def test_error_is_logged(
    sqlite_url: str, capsys: pytest.CaptureFixture[str], error: Exception, shown: str
) -> None:
    """An error of a task does not end the later rounds."""

    def fail() -> None:
        raise error

    inbox = Inbox(sqlite_url, lease_seconds=30)
    Maintenance([], inbox.reconciliation, threading.Event()).run_once(Task("broken", 1, fail), "me")

    printed = capsys.readouterr()
    for word in ("maintenance_failed", "broken", shown):
        assert word in printed.out + printed.err
    inbox.close()


def test_tasks_of_a_service(make_receiver: Callable[..., Receiver]) -> None:
    """One process of an inbox does what changes it for all. Each process does what is its own."""
    service = make_receiver(processing="queue", alert_url="http://127.0.0.1:9/", retention_days=31)
    tasks = service.services.maintenance._tasks  # noqa: SLF001 - no other way
    assert {each.name for each in tasks if each.by_leader} == {
        *("alerts", "alerts_prune", "alert_messages", "old_records", "retention", "watch")
    }
    assert {each.name for each in tasks if not each.by_leader} == {
        *("activity", "indexes", "inbox_outage", "lanes", "paused_types", "release"),
        "type_breakers",
    }
