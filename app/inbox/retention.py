"""The inbox for retention: removing old events in small steps."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from app.inbox.sql import retention as statements
from app.inbox.store import Store

DAY_SECONDS = 86400.0

#: Days that the counts of error groups are kept, and the entries of the audit log.
GROUP_DAYS = 90
AUDIT_DAYS = 730

#: Events of one step. On SQLite all other writes wait for its transaction, some milliseconds.
ROWS = 70


class Place(NamedTuple):
    """A place in the order of receipt: the time, and the id of the event."""

    received_at: float
    event_id: str


#: The place before all events.
START = Place(0.0, "")


class Step(NamedTuple):
    """The result of one step: the events that it removed, and the place where the next begins.

    ``next`` is None after the last step.
    """

    removed: int
    next: Place | None


class Retention:
    """Removes events that are no longer needed. Pending, running and dead events stay."""

    def __init__(self, store: Store) -> None:
        """Take the ``store`` of the events."""
        self._store = store

    def days_ago(self, days: float) -> float:
        """Return the time ``days`` before now, by the clock that is furthest behind.

        The clocks are that of the database, that of this process, and the time of the latest
        delivery. So a clock that steps ahead removes nothing: a delivery is refused if its
        signature is from another time, so none is received by a wrong clock of this process.
        """
        (clock,) = self._store.read(statements.CLOCK)
        latest = clock.now if clock.latest is None else clock.latest
        return float(min(clock.now, time.time(), latest) - days * DAY_SECONDS)

    def count(self, before: float) -> int:
        """Return how many events were received and settled ``before``, and can be removed."""
        return int(self._store.read(statements.COUNT, before=before)[0][0])

    def step(self, before: float, after: Place = START) -> Step:
        """Remove the events among the next ``ROWS`` that were received and settled ``before``.

        Their attempts and retries are removed with them.
        """
        names: dict[str, Any] = {"before": before}
        names |= {"after_at": after.received_at, "after_id": after.event_id}
        rows = self._store.read(statements.NEXT, rows=ROWS, **names)
        removable = sum(row.is_removable for row in rows)
        if removable:
            end = {"to_at": rows[-1].received_at, "to_id": rows[-1].id}
            self._store.write(statements.REMOVE, slow_ok=True, **names, **end)
        is_last = len(rows) < ROWS
        return Step(removable, None if is_last else Place(rows[-1].received_at, rows[-1].id))

    def remove_records(self) -> None:
        """Remove the old hours of error groups, groups without events, and audit entries."""
        before = self.days_ago(GROUP_DAYS)
        self._store.write(statements.REMOVE_HOURS, slow_ok=True, hour=int(before // 3600))
        self._store.write(statements.REMOVE_GROUPS, slow_ok=True, before=before)
        self._store.write(statements.REMOVE_AUDIT, slow_ok=True, before=self.days_ago(AUDIT_DAYS))
