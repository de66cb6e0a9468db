"""Pauses: no worker claims an event, or none of one type."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from app.inbox.audit import Audit
from app.inbox.engine import limits
from app.inbox.lanes import Lanes
from app.inbox.models import Note
from app.inbox.sql import pauses as statements
from app.inbox.sql.type_breakers import FORGET
from app.inbox.steps import numbered_ids
from app.inbox.store import Store

#: Events that one statement parks. It holds the write lock of SQLite for some milliseconds.
STEP = 100
#: The due events of a lane among which those of paused types are searched, the first due first.
SEARCHED = 2_000
#: Seconds after which parked events are searched though no pause has changed.
SEARCH_SECONDS = 60.0


class Pauses:
    """Pauses and resumes the workers of all processes. A pause survives restarts."""

    def __init__(self, store: Store) -> None:
        """Take the ``store`` of the pauses."""
        self._store = store
        self._log = Audit(store)
        self._lanes = Lanes(store)
        self._types: frozenset[str] | None = None
        self._searched_at = 0.0

    def pause(self, *, by: str, why: str | None, type_: str | None = None) -> bool:
        """Let no worker claim an event, or none of this type, until ``resume``.

        False when they are paused already. The pause of a circuit breaker becomes one of ``by``.
        """
        audit_id = self._log.record(by, "pause", type_, why)
        if type_ is None:
            row = self._store.write(statements.PAUSE, durable=True, by=by, why=why)
        else:
            row = self._store.write(statements.PAUSE_TYPE, durable=True, type=type_, by=by, why=why)
        if row is None:
            self._log.complete(audit_id, 0)
        return row is not None

    def resume(self, *, by: str, why: str | None = None, type_: str | None = None) -> bool:
        """Let the workers claim again. False when they are not paused.

        A type that is paused stays paused when all are resumed, and the reverse.
        """
        audit_id = self._log.record(by, "resume", type_, why)
        if type_ is None:
            row = self._store.write(statements.RESUME, durable=True)
        else:
            # First: with the failures of before, the circuit breaker would pause it again.
            self._store.write(FORGET, failed_type=type_)
            row = self._store.write(statements.RESUME_TYPE, durable=True, paused_type=type_)
        if row is None:
            self._log.complete(audit_id, 0)
        return row is not None

    def paused(self) -> Note | None:
        """Return when, by whom and why the workers were paused. None if they are not paused."""
        # A health check waits for this.
        rows = self._store.read(statements.PAUSED, seconds=limits.SECONDS)
        return Note(*tuple(rows[0])) if rows else None

    def paused_types(self) -> dict[str, Note]:
        """Return the paused event types, each with the note about its pause."""
        rows = self._store.read(statements.PAUSED_TYPES)
        return {row.type: Note(row.at, row.by, row.why) for row in rows}

    def park(self) -> int:
        """Park the due events of paused types, and make parked events of other types due.

        It does so in small steps until there is none, and returns how many it changed. Any number
        of processes may call it at once.
        """
        types = frozenset(self.paused_types())
        changed = 0
        for lane in self._lanes.lanes() if types else ():
            changed += self._move(
                statements.DUE_AND_PAUSED,
                statements.park,
                lane=lane,
                overdue=0.0,
                searched=SEARCHED,
            )
        # A search for parked events walks over those of the types that are still paused.
        if types != self._types or time.monotonic() > self._searched_at + SEARCH_SECONDS:
            changed += self._move(statements.PARKED_AND_RESUMED, statements.unpark)
            self._types, self._searched_at = types, time.monotonic()
        return changed

    def _move(
        self, select: sa.Select[Any], change: Callable[[int], sa.Executable], **given: Any
    ) -> int:
        total = 0
        while rows := self._store.read(select, limit=STEP, **given):
            names = numbered_ids([row.id for row in rows], STEP)
            moved = len(self._store.change(change(STEP), names, durable=False))
            total += moved
            if not moved:  # others hold all of them
                break
        return total
