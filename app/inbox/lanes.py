"""Lanes: events of types with a limit or a low priority wait apart from the others."""

from __future__ import annotations

from app.inbox.claim_rules import NORMAL
from app.inbox.sql import lanes as statements
from app.inbox.steps import numbered_ids
from app.inbox.store import Store

#: Events that one statement moves. It holds the write lock of SQLite for some milliseconds.
STEP = 100
#: The due events of a lane among which misplaced ones are searched, the first due first.
SEARCHED = 500
#: Seconds for which an event of a special lane is due before it is moved. During a rolling
#: deployment, replicas with other rules would move it back and forth.
PATIENCE_SECONDS = 60.0


class Lanes:
    """Moves events to the lane of their type."""

    def __init__(self, store: Store) -> None:
        """Take the ``store`` of the events."""
        self._store = store

    def lanes(self) -> list[str]:
        """Return the lanes with pending events."""
        return [row.lane for row in self._store.read(statements.LANES)]

    def place(self) -> int:
        """Move the due events that wait in another lane than that of their type.

        Such events were recorded by a replica with other rules, or before the rules changed. So no
        event waits for ever in a lane that no process knows. Works in small steps, and returns how
        many it moved. Any number of processes may call it at once.
        """
        if not self._store.rules.has_lanes:
            return 0  # this process claims events of all lanes
        return sum(self._place(each) for each in self.lanes())

    def _place(self, lane: str) -> int:
        rules, total = self._store.rules, 0
        overdue = 0.0 if lane == NORMAL else PATIENCE_SECONDS
        search = statements.misplaced(rules)
        while rows := self._store.read(
            search, lane=lane, overdue=overdue, searched=SEARCHED, limit=STEP
        ):
            names = numbered_ids([row.id for row in rows], STEP)
            moved = len(self._store.change(statements.place(rules, STEP), names, durable=False))
            total += moved
            if not moved:  # others hold all of them
                break
        return total
