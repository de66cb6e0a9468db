"""The statements that record a delivery.

A constant is written into the SQL: a bound parameter costs more than its value at every delivery.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from app.inbox.sql.literals import word
from app.inbox.sql.rows import (
    ONE,
    ZERO,
    claimed,
    crashes,
    is_poison,
    new_row,
    poisoned,
    rescuable,
    returned_columns,
)
from app.inbox.sql.schema import events, now
from app.states import Outcome, State

#: The row of a new event that is claimed at once, and of one that waits for a worker.
CLAIMED_ROW = new_row(**claimed, attempt=ONE)
ENQUEUED_ROW = new_row(state=word(State.PENDING), attempt=ZERO)

#: True for an event that was skipped as one of the wrong mode. It was never run, so it may run,
#: unless it was erased since.
_wrong_mode = sa.and_(
    events.c.state == word(State.DONE),
    events.c.outcome == word(Outcome.WRONG_MODE),
    events.c.erased_at.is_(None),
)

_claimable = sa.or_(events.c.state == word(State.PENDING), rescuable(events), _wrong_mode)

_new = insert(events).values(CLAIMED_ROW)


def _if_claimable(name: str, value: Any = None) -> sa.Case[Any]:
    """Return a column's value: claimed if the event may be claimed, dead if it is poison.

    ``value`` replaces the value that a new event would get.
    """
    cases = [(_claimable, _new.excluded[name] if value is None else value)]
    if name in poisoned:
        cases.append((is_poison(events), poisoned[name]))
    return sa.case(*cases, else_=events.c[name])


def _if_poison(name: str) -> sa.Case[Any]:
    return sa.case((is_poison(events), poisoned[name]), else_=events.c[name])


#: Records a delivery, and claims the event if it may be claimed. The caller owns the claim if the
#: row has its token, also after a repeated run.
RECORD_AND_CLAIM = _new.on_conflict_do_update(
    index_elements=[events.c.id],
    set_={
        "deliveries": events.c.deliveries + ONE,
        "attempt": _if_claimable("attempt", events.c.attempt + ONE),
        "crashes": crashes,
        **{
            name: _if_claimable(name)
            for name in (
                *("state", "outcome", "claimed_by", "claimed_at"),
                *("lease_until", "lease_seconds"),
            )
        },
        **{name: _if_claimable(name, sa.null()) for name in ("fingerprint", "release", "slot")},
        **{name: _if_poison(name) for name in ("reason", "traceback", "locked_key", "settled_at")},
    },
).returning(*returned_columns)

#: Records a delivery of an event that a worker is to run. A known event keeps its state.
ENQUEUE = (
    insert(events)
    .values(ENQUEUED_ROW)
    .on_conflict_do_update(
        index_elements=[events.c.id],
        set_={
            "deliveries": events.c.deliveries + ONE,
            "state": sa.case((_wrong_mode, word(State.PENDING)), else_=events.c.state),
            "outcome": sa.case((_wrong_mode, sa.null()), else_=events.c.outcome),
            "due_at": sa.case((_wrong_mode, now()), else_=events.c.due_at),
        },
    )
    .returning(*returned_columns)
)

#: Records a delivery of an event that is not to be run.
RECORD_SKIPPED = (
    insert(events)
    .values(
        new_row(
            state=word(State.DONE),
            outcome=sa.bindparam("outcome"),
            attempt=ZERO,
            settled_at=now(),
        )
    )
    .on_conflict_do_update(
        index_elements=[events.c.id],
        set_={"deliveries": events.c.deliveries + ONE},
    )
    .returning(*returned_columns)
)


def notify(channel: str) -> sa.Executable:
    """Return the statement that notifies the workers of other processes that an event is due.

    For PostgreSQL only.
    """
    return sa.select(sa.func.pg_notify(word(channel), word("")))
