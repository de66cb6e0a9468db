"""Parts that several statements share: a new row, a claim, and which events may be claimed."""

from __future__ import annotations

from typing import Any, NamedTuple

import sqlalchemy as sa

from app.inbox.sql.literals import number, word
from app.inbox.sql.rescue import orphaned
from app.inbox.sql.schema import events, now
from app.states import Outcome, State

ZERO = number(0)
ONE = number(1)

#: The ``reason`` of an event that is dead after too many crashes.
CRASHED = "its process crashed or hung in each of the last attempts"

_lease_seconds = sa.bindparam("lease_seconds", type_=sa.Double)
lease_end = now() + _lease_seconds

#: The columns of a claim.
claimed: dict[str, Any] = {
    "state": word(State.RUNNING),
    "claimed_by": sa.bindparam("token"),
    "claimed_at": now(),
    "lease_until": lease_end,
    "lease_seconds": _lease_seconds,
}

#: The columns that change when an event is claimed again.
reclaimed: dict[str, Any] = {
    **claimed,
    "outcome": sa.null(),
    "attempt": events.c.attempt + ONE,
    "fingerprint": sa.null(),
    "release": sa.null(),
}

#: The columns of an event that ended too many processes.
poisoned: dict[str, Any] = {
    "state": word(State.DEAD),
    "outcome": word(Outcome.CRASHED),
    "reason": word(CRASHED),
    "traceback": sa.null(),
    "lease_until": sa.null(),
    "locked_key": sa.null(),
    "slot": sa.null(),
    "settled_at": now(),
    "fingerprint": word("crashed.") + events.c.type,
    "release": sa.null(),
}


class RecordedRow(NamedTuple):
    """The row that a statement returns of the event that it recorded or claimed."""

    id: str
    type: str
    body: bytes
    state: str
    outcome: str | None
    attempt: int
    claimed_by: str | None
    attempts_used: float
    context: str | None
    trace: str | None


#: The columns of a ``RecordedRow``, for ``RETURNING``.
returned_columns = tuple(events.c[name] for name in RecordedRow._fields)


def new_row(**values: object) -> dict[str, object]:
    """Return the columns of a new event: those of its notification, and these ``values``."""
    given: dict[str, object] = {
        name: sa.bindparam(name)
        for name in (
            "id",
            "type",
            "livemode",
            "context",
            "body",
            "concurrency_key",
            "trace",
            "lane",
        )
    }
    counted = {"deliveries": ONE, "attempts_used": ZERO, "crashes": ZERO}
    return {**given, **counted, "received_at": now(), "due_at": now(), **values}


def is_poison(event: Any) -> sa.ColumnElement[bool]:
    """True for an orphan that ended too many processes."""
    return sa.and_(orphaned(event), event.c.crashes + ONE >= sa.bindparam("max_crashes"))


def rescuable(event: Any) -> sa.ColumnElement[bool]:
    """True for an orphan that may be run again."""
    return sa.and_(orphaned(event), event.c.crashes + ONE < sa.bindparam("max_crashes"))


#: One more crash if the event is an orphan.
crashes = sa.case((orphaned(events), events.c.crashes + ONE), else_=events.c.crashes)
