"""Pauses: no worker claims an event, or none of one type."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from app.inbox.audit import Audit
from app.inbox.engine import limits
from app.inbox.models import Note
from app.inbox.sql import pauses as statements
from app.inbox.sql.type_breakers import FORGET
from app.inbox.steps import numbered_ids
from app.inbox.store import Store

#: Events that one statement parks. It holds the write lock of SQLite for some milliseconds.
STEP = 100
#: Events that one search reads, in the order of ``due_at``. The next search begins after them.
SEARCHED = 2_000
#: Seconds after which parked events are searched though no pause has changed.
SEARCH_SECONDS = 60.0
#: The place before all events: a ``due_at`` and an id.
START = (0.0, "")


class Pauses:
    """Pauses and resumes the workers of all processes. A pause survives restarts."""

    def __init__(self, store: Store) -> None:
        """Take the ``store`` of the pauses."""
        self._store = store
        self._log = Audit(store)
        self._types: frozenset[str] | None = None
        self._searched_at = -math.inf
        self._place = START

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

        It does so in small steps, and returns how many it changed. It stops at ``SEARCHED`` due
        events of which it parks none: the next call goes on behind them, and at the end begins
        again. Any number of processes may call it at once.
        """
        types = frozenset(self.paused_types())
        has_changed, changed = types != self._types, 0
        if has_changed:
            self._place = START
        # A search for parked events walks over those of the types that are still paused.
        if has_changed or time.monotonic() > self._searched_at + SEARCH_SECONDS:
            changed = self._unpark()
            self._types, self._searched_at = types, time.monotonic()
        return changed + self._park() if types else changed

    def _park(self) -> int:
        total = 0
        while True:
            moved, self._place = self._move(statements.DUE_AND_PAUSED, statements.park, self._place)
            total += moved
            if not moved or self._place == START:
                return total

    def _unpark(self) -> int:
        total, place = self._move(statements.PARKED_AND_RESUMED, statements.unpark, START)
        while place != START:
            moved, place = self._move(statements.PARKED_AND_RESUMED, statements.unpark, place)
            total += moved
        return total

    def _move(
        self,
        search: statements.Search,
        change: Callable[[int], sa.Executable],
        place: tuple[float, str],
    ) -> tuple[int, tuple[float, str]]:
        """Change up to ``STEP`` events after the ``place``. Return their number and the next place.

        Events that others hold are skipped. The next place is ``START`` after the last event.
        """
        after: dict[str, Any] = {"due_at": place[0], "after_id": place[1], "searched": SEARCHED}
        # Read first: an event that is claimed later only makes the next search overlap this one.
        ends = self._store.read(search.end, **after)
        rows = self._store.read(search.which, limit=STEP, **after)
        moved = 0
        if rows:
            names = numbered_ids([row.id for row in rows], STEP)
            moved = len(self._store.change(change(STEP), names, durable=False))
        last = rows[-1:] if len(rows) == STEP else ends[:1]
        return moved, (last[0].due_at, last[0].id) if last else START
