"""The inbox for counters of activity: how many deliveries, rejections and attempts, and when.

A page and an alert read them. They are kept for eight days, and not as exact as the events: a
process adds its counts every few seconds, and SIGKILL loses those of the last seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any

from app.inbox.engine import limits
from app.inbox.sql import activity as statements
from app.inbox.store import Store

__all__ = ["PERIOD_SECONDS", "Activities", "Activity", "WorkerThreads", "period_of"]

#: Seconds of a period. One counter counts one thing in one period.
PERIOD_SECONDS = statements.PERIOD_SECONDS

#: Counters that one statement adds to.
ROWS = 50


@dataclass(frozen=True, slots=True, order=True)
class Activity:
    """One counter: how often a thing happened in one period.

    ``kind`` is ``delivery`` (``name``: the outcome), ``rejection`` (the reason), ``attempt`` (the
    outcome, also of events that were not run) or ``secret`` (the position of the signing secret,
    from 1). ``bucket`` is the number of the period since the epoch, of five minutes each.
    ``last_at`` is the time of the last one.
    """

    kind: str
    name: str
    bucket: int
    number: int
    last_at: float


@dataclass(frozen=True, slots=True)
class WorkerThreads:
    """How many threads run an event, and how many wait for one."""

    busy: int
    idle: int

    @property
    def all(self) -> int:
        """The number of all threads."""
        return self.busy + self.idle


def period_of(at: float) -> int:
    """Return the number of the period of a time, in seconds since the epoch."""
    return int(at // PERIOD_SECONDS)


class Activities:
    """Adds to the counters, and reads them. Each method raises ``InboxUnavailable``."""

    def __init__(self, store: Store) -> None:
        """Take the ``store`` of the counters."""
        self._store = store

    def add(self, rows: Sequence[Activity]) -> None:
        """Add to the counters. When it raises, some of the rows can have been added."""
        ordered = sorted(rows)
        for start in range(0, len(ordered), ROWS):
            chunk = ordered[start : start + ROWS]
            parameters = {
                f"{field.name}_{place}": value
                for place, row in enumerate(chunk)
                for field, value in zip(fields(row), astuple(row), strict=True)
            }
            self._store.write(statements.add_many(len(chunk)), **parameters)

    def since(self, at: float) -> list[Activity]:
        """Return the counters of all periods that end after ``at``, in the order of time."""
        rows = self._store.read(statements.SINCE, bucket=period_of(at))
        return [Activity(*tuple(row)) for row in rows]

    def last_deliveries(self) -> dict[str, float]:
        """Return the time of the last delivery under each signing secret, by its position."""
        rows = self._store.read(statements.LAST_DELIVERIES, seconds=limits.SECONDS)
        return {row.name: row.last_at for row in rows}

    def show_threads(self, process: str, busy: int, idle: int) -> None:
        """Record how many worker threads of a process run an event, and how many wait for one.

        Call it every few seconds: after 15 seconds the process counts as ended.
        """
        threads: dict[str, Any] = {statements.BUSY: busy, statements.IDLE: idle}
        self._store.write(statements.SHOW_THREADS, process=process, **threads)

    def threads(self) -> WorkerThreads:
        """Return the number of worker threads of all processes, on all hosts."""
        numbers = {row.kind: int(row.number) for row in self._store.read(statements.THREADS)}
        return WorkerThreads(numbers.get(statements.BUSY, 0), numbers.get(statements.IDLE, 0))

    def prune(self) -> None:
        """Remove the counters of more than eight days ago.

        The time of the last delivery under each signing secret stays.
        """
        self._store.write(statements.PRUNE)
