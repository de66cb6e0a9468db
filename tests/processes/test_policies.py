"""Policies over several real processes, which are killed while callbacks run."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time

from app.inbox import Inbox
from app.stripe_api.event_body import read_event
from tests.support.services import DEADLINE, MODULE, Entry, Lab, notification, state
from tests.support.waiting import wait_for

REPLICAS = 3
LIMIT = 2
EVENTS = [f"evt_{number}" for number in range(24)]

#: The callback of the lab takes no time. So callbacks beyond the limit would overlap in no run.
SLOW = f"""
CONCURRENCY = {LIMIT}


def handle(notif, client):
    attempt = _current.get().claim.attempt
    note("start", notif, attempt)
    time.sleep(0.05)
    note("end", notif, attempt)
"""


def declare(lab: Lab, lines: str) -> None:
    """Add lines to the lab's handler module."""
    file = lab.package / f"{MODULE}.py"
    file.write_text(file.read_text() + lines)


def enqueue(database_url: str, events: list[str]) -> None:
    """Record events as deliveries would."""
    with contextlib.closing(Inbox(database_url, lease_seconds=1)) as inbox:
        for each in events:
            inbox.deliveries.enqueue(read_event(notification(each)))


def all_are_done(database_url: str, events: list[str]) -> bool:
    """Return whether no event is pending or runs."""
    return all(state(database_url, each)[0] == "done" for each in events)


def most_at_once(journal: list[Entry], killed_at: dict[int, float]) -> int:
    """Return how many callbacks ran at one moment at the most.

    The callbacks of a killed process ended when it was killed.
    """
    ends = {(each.event_id, each.attempt): each.at for each in journal if each.what == "end"}
    moments = []
    for each in journal:
        if each.what == "start":
            end = ends.get((each.event_id, each.attempt), killed_at.get(each.pid, math.inf))
            moments += [(each.at, 1), (end, -1)]
    running = most = 0
    for _, change in sorted(moments):
        running += change
        most = max(most, running)
    return most


def test_limit_holds_over_replicas_one_of_which_is_killed(lab: Lab, database_url: str) -> None:
    """Of three workers with four threads each, no more callbacks run at once than CONCURRENCY."""
    declare(lab, SLOW)
    workers = [
        lab.start_worker(database_url, "--threads", "4", LEASE_SECONDS=2) for _ in range(REPLICAS)
    ]
    wait_for(lambda: all("worker_started" in each.log for each in workers), DEADLINE)
    enqueue(database_url, EVENTS)
    wait_for(lambda: len(lab.journal()) > 6, DEADLINE)
    killed = lab.journal()[-1].pid

    os.kill(killed, signal.SIGKILL)
    killed_at = {killed: time.monotonic()}

    wait_for(lambda: all_are_done(database_url, EVENTS), DEADLINE)
    assert most_at_once(lab.journal(), killed_at) == LIMIT
    assert {each.event_id for each in lab.journal() if each.what == "end"} == set(EVENTS)


def test_newest_event_of_each_object_runs_though_a_worker_is_killed(
    lab: Lab, database_url: str
) -> None:
    """Superseded events need no run of their own: a later one of their object succeeds."""
    declare(lab, SLOW.replace(f"CONCURRENCY = {LIMIT}", "COALESCE = True"))
    updates = [f"evt_{number}@{number % 6}" for number in range(90)]
    workers = [lab.start_worker(database_url, "--threads", "4", LEASE_SECONDS=2) for _ in range(2)]
    wait_for(lambda: all("worker_started" in each.log for each in workers), DEADLINE)
    for first in range(0, 90, 30):
        enqueue(database_url, updates[first : first + 30])
        wait_for(lambda: bool(lab.journal()), DEADLINE)
        if first == 30:
            os.kill(lab.journal()[-1].pid, signal.SIGKILL)

    wait_for(lambda: all_are_done(database_url, updates), DEADLINE)
    ended = {each.event_id for each in lab.journal() if each.what == "end"}
    assert set(updates[-6:]) <= ended
    outcomes = {each: state(database_url, each)[1] for each in updates}
    assert set(outcomes.values()) == {"handled", "superseded"}
    assert {each for each in updates if outcomes[each] == "handled"} <= ended
