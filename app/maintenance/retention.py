"""Removes old events at a pace that leaves the inbox to deliveries."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import structlog

from app.inbox import Inbox
from app.inbox.retention import START, Place, Retention
from app.maintenance.schedule import Task
from app.settings import Settings

log = structlog.get_logger(__name__)

#: Seconds between two rounds of the task, and how long one may take. The next round continues.
ROUND_SECONDS = 60.0

#: Seconds until the task looks for old events again after it has removed all of them.
IDLE_SECONDS = 3600.0

#: The pause after a step, as a multiple of the time that the step took, and its least length in
#: seconds. SQLite has one writer: a delivery waits for one step, and then is first.
PAUSE_RATIO = 9.0
MIN_PAUSE_SECONDS = 0.1


def tasks(settings: Settings, inbox: Inbox, stopping: threading.Event) -> list[Task]:
    """Return the tasks that remove what is old. ``stopping`` ends a round early."""

    def remove_records() -> None:
        inbox.activity.prune()
        inbox.alerts.prune()
        inbox.retention.remove_records()

    found = [Task("old_records", IDLE_SECONDS, remove_records, by_leader=True)]
    if settings.retention_days:
        pruner = Pruner(inbox.retention, settings.retention_days, stopping)
        found.append(Task("retention", ROUND_SECONDS, pruner.run, by_leader=True))
    return found


def prune(
    retention: Retention, before: float, wait: Callable[[float], object], after: Place = START
) -> Iterator[tuple[int, Place | None]]:
    """Remove all events that were received and settled ``before``, step by step.

    Yields each step, and then calls ``wait`` with the seconds to the next one.
    """
    place: Place | None = after
    while place is not None:
        begun = time.monotonic()
        removed, place = retention.step(before, place)
        yield removed, place
        if place is not None:
            wait(max(MIN_PAUSE_SECONDS, PAUSE_RATIO * (time.monotonic() - begun)))


class Pruner:
    """The task that removes events older than ``RETENTION_DAYS``."""

    def __init__(self, retention: Retention, days: int, stopping: threading.Event) -> None:
        """Keep events for so many ``days``. ``stopping`` ends a round early."""
        self._retention = retention
        self._days = days
        self._stopping = stopping
        self._place = START
        self._next_at = 0.0

    def run(self) -> None:
        """Remove old events for up to ``ROUND_SECONDS``. The next call continues there."""
        if time.monotonic() < self._next_at:
            return
        end = time.monotonic() + ROUND_SECONDS
        before = self._retention.days_ago(self._days)
        count = 0
        for removed, place in prune(self._retention, before, self._stopping.wait, self._place):
            count += removed
            self._place = place or START
            if place is None:
                self._next_at = time.monotonic() + IDLE_SECONDS
            if self._stopping.is_set() or time.monotonic() > end:
                break
        if count:
            log.info("events_pruned", count=count, days=self._days)
