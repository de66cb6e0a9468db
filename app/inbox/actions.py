"""The actions of an operator on events: run them again, or give them up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from heapq import merge
from itertools import islice
from operator import attrgetter

from app.inbox.audit import Audit
from app.inbox.filters import EventFilter, to_query
from app.inbox.models import Event, EventRow
from app.inbox.selection import Selection
from app.inbox.sql import actions as many
from app.inbox.sql import administration as statements
from app.inbox.steps import in_steps, numbered_ids
from app.inbox.store import Store, seen_values
from app.states import State

#: Events that one statement changes. It holds the write lock of SQLite for some milliseconds.
STEP = 100


class Actions:
    """Changes events for an operator. Deliveries go on beside it."""

    def __init__(self, store: Store) -> None:
        """Take the ``store`` of the events."""
        self._store = store
        self._audit = Audit(store)
        self._selection = Selection(store)

    def reopen(
        self,
        event_id: str,
        *,
        by: str,
        why: str | None = None,
        again: bool = False,
        seen: Event | EventRow | None = None,
    ) -> bool:
        """Make the event due for the workers now, and record the retry with it.

        False when it runs, or is handled. ``again`` and ``seen`` are those of ``claim_one``. It
        writes no entry of the audit log.
        """
        names = {"by": by, "why": why, "again": again, **seen_values(seen)}
        row = self._store.write(statements.REOPEN, durable=True, event_id=event_id, **names)
        return row is not None

    def retry_many(self, matching: EventFilter, *, by: str, why: str | None, limit: int) -> int:
        """Make up to ``limit`` matching events due for the workers, the oldest first.

        Returns their number. Without a state and an outcome, dead and pending events are selected.
        A done event is run again only if no handler module ran it. No event is taken twice.
        """
        audit_id = self._audit.record(by, "retry_many", to_query(matching), why)
        done = 0
        for step in in_steps(islice(self._retriable(matching), limit), STEP):
            is_open = [each.id for each in step if each.state != State.DONE]
            if is_open:
                ids = numbered_ids(is_open, STEP)
                done += len(self._store.change(many.reopen(STEP), {**ids, "by": by, "why": why}))
            for each in step:
                is_done = each.state == State.DONE
                done += is_done and self.reopen(each.id, by=by, why=why, seen=each)
        self._audit.complete(audit_id, done)
        return done

    def _retriable(self, matching: EventFilter) -> Iterator[EventRow]:
        states: tuple[str | None, ...] = (State.DEAD, State.PENDING)
        if matching.state is not None or matching.outcome is not None:
            states = (matching.state,)
        walks = [self._selection.walk(replace(matching, state=each)) for each in states]
        # A dead event is pending after its retry. It is then behind the place of both walks.
        return merge(*walks, key=attrgetter("received_at", "id"))

    def give_up(self, event_id: str, *, by: str, why: str, seen_attempt: int | None = None) -> bool:
        """Make a pending event dead, with the outcome ``gave_up`` and the reason ``why``.

        False when it is not pending, or has another latest attempt than ``seen_attempt``.
        """
        audit_id = self._audit.record(by, "give_up", event_id, why)
        ids = numbered_ids([event_id], 1)
        given = {"why": why, "seen_attempt": seen_attempt}
        done = len(self._store.change(many.give_up(1), ids | given))
        self._audit.complete(audit_id, done)
        return bool(done)

    def give_up_many(self, matching: EventFilter, *, by: str, why: str, limit: int) -> int:
        """Give up on up to ``limit`` matching events that are pending, the oldest first.

        Returns their number.
        """
        audit_id = self._audit.record(by, "give_up_many", to_query(matching), why)
        pending = replace(matching, state=State.PENDING.value)
        done = 0
        if matching.state in {None, State.PENDING}:
            for step in in_steps(islice(self._selection.walk(pending), limit), STEP):
                ids = numbered_ids([each.id for each in step], STEP)
                given = {"why": why, "seen_attempt": None}
                done += len(self._store.change(many.give_up(STEP), ids | given))
        self._audit.complete(audit_id, done)
        return done
