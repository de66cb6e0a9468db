"""The inbox for the overview of the operations page. Each call is short, whatever its size."""

from __future__ import annotations

from dataclasses import dataclass

from app.inbox.sql import overview as statements
from app.inbox.store import Store
from app.states import State


@dataclass(frozen=True, slots=True)
class Extent:
    """The size of the database in bytes, and the time of receipt of the oldest event, if any."""

    size: int
    first_received_at: float | None


class Overview:
    """Counts open events by time, and measures the inbox."""

    def __init__(self, store: Store) -> None:
        """Take the ``store`` of the events."""
        self._store = store

    def open_by_hour(self, since: float) -> dict[tuple[State, int], int]:
        """Return the numbers of pending and of dead events that were received ``since``.

        The keys are the state and the hour, in whole hours since the epoch, UTC. Of each state, the
        latest 10,000 events are counted. ``since`` is in seconds since the epoch.
        """
        rows = self._store.read(statements.OPEN_BY_HOUR, since=since)
        return {(State(row.state), row.hour): row.number for row in rows}

    def extent(self) -> Extent:
        """Return the size of the database and the age of its oldest event."""
        (row,) = self._store.read(statements.EXTENT)
        return Extent(row.size, row.first)
