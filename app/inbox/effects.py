"""The inbox for ``app.once``: which effects of an event are done."""

from __future__ import annotations

from typing import NamedTuple

from app.inbox.sql import effects as statements
from app.inbox.store import Store


class Effect(NamedTuple):
    """An effect of a callback, and when it was recorded."""

    purpose: str
    at: float


class Effects:
    """Records the effects of callbacks. They are removed with their event."""

    def __init__(self, store: Store) -> None:
        """Take the ``store`` of the events."""
        self._store = store

    def is_recorded(self, event_id: str, purpose: str) -> bool:
        """Return whether this effect of an event is recorded, by it or by its twin."""
        return bool(self._store.read(statements.FIND, event_id=event_id, purpose=purpose))

    def record(self, event_id: str, purpose: str) -> None:
        """Record an effect. When this returns, it is on the disk.

        Does nothing if it is recorded, or if the event was removed.
        """
        self._store.write(statements.RECORD, durable=True, event_id=event_id, purpose=purpose)

    def of_event(self, event_id: str) -> list[Effect]:
        """Return the effects of an event, the first one first."""
        rows = self._store.read(statements.OF_EVENT, event_id=event_id)
        return [Effect(row.purpose, row.at) for row in rows]
