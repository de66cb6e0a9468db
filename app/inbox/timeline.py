"""The inbox for the timeline of the operations page."""

from __future__ import annotations

from app.inbox.sql import timeline as statements
from app.inbox.store import Store
from app.states import State


class Timeline:
    """Counts open events by the time of their receipt."""

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
