"""The statements behind an operator's actions on many events at once."""

from __future__ import annotations

from functools import cache
from typing import Any

import sqlalchemy as sa

from app.inbox.sql import parking
from app.inbox.sql.claims import retry_note
from app.inbox.sql.literals import word
from app.inbox.sql.rows import ONE, ZERO
from app.inbox.sql.schema import events, now
from app.states import Outcome, State


def _these(count: int) -> sa.ColumnElement[bool]:
    """Return the condition for ``count`` events: the parameters ``event_id_0`` and so on."""
    return events.c.id.in_([sa.bindparam(f"event_id_{each}") for each in range(count)])


#: An erased event is never run again.
_is_open = sa.and_(
    events.c.state.in_([word(State.PENDING), word(State.DEAD)]), events.c.erased_at.is_(None)
)

#: True for an event whose process released it a moment ago: its callback may still run. A parked
#: event was due, so its process has ended.
_ends_now = sa.and_(
    events.c.state == word(State.PENDING),
    sa.func.coalesce(events.c.outcome, word("")) == word(Outcome.RELEASED),
    events.c.due_at > now(),
)

#: The columns of an event that a person makes due. A parked one is parked again.
reopened: dict[str, Any] = {
    "state": word(State.PENDING),
    "outcome": parking.outcome,
    "due_at": sa.case((_ends_now, events.c.due_at), else_=now()),
    "attempts_used": ZERO,
    "crashes": ZERO,
}


@cache
def reopen(count: int) -> sa.Executable:
    """Return the statement that makes those of ``count`` events due that are open.

    It records the retry of each.
    """
    return (
        sa.update(events)
        .where(_these(count), _is_open)
        .values(**reopened)
        .returning(events.c.id)
        .execution_options(repeatable=False, all_rows=True, also=retry_note)
    )


@cache
def give_up(count: int) -> sa.Executable:
    """Return the statement that makes those of ``count`` events dead that are pending.

    It counts as one more attempt, so that the trigger keeps the latest one with its error. With the
    parameter ``seen_attempt`` the latest attempt has to be that one.
    """
    seen: sa.BindParameter[Any] = sa.bindparam("seen_attempt", type_=sa.Integer)
    return (
        sa.update(events)
        .where(
            _these(count),
            events.c.state == word(State.PENDING),
            ~_ends_now,
            sa.or_(seen.is_(None), events.c.attempt == seen),
        )
        .values(
            state=word(State.DEAD),
            outcome=word(Outcome.GAVE_UP),
            reason=sa.bindparam("why"),
            traceback=sa.null(),
            attempt=events.c.attempt + ONE,
            claimed_by=sa.null(),
            claimed_at=now(),
            settled_at=now(),
        )
        .returning(events.c.id)
        .execution_options(repeatable=False, all_rows=True)
    )
