"""The statements that pause workers: all of them, or one event type.

A worker takes the event that has been due for longest. It would have to skip all due events of a
paused type at each claim. So such events are parked: their ``due_at`` is moved into the far future,
and back at the end of the pause. Until an event is parked, the claims skip it by its type.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from app.inbox.models import BREAKER
from app.inbox.sql import parking
from app.inbox.sql.claims import is_type_paused
from app.inbox.sql.literals import word
from app.inbox.sql.operations import type_pauses
from app.inbox.sql.rows import ONE
from app.inbox.sql.schema import events, now, pauses
from app.states import State

PAUSE = (
    insert(pauses)
    .values(id=ONE, at=now(), by=sa.bindparam("by"), why=sa.bindparam("why"))
    .on_conflict_do_nothing(index_elements=[pauses.c.id])
    .returning(pauses.c.id)
    .execution_options(repeatable=False)
)
RESUME = sa.delete(pauses).returning(pauses.c.id).execution_options(repeatable=False)
PAUSED = sa.select(pauses.c.at, pauses.c.by, pauses.c.why)

PAUSE_TYPE = (
    insert(type_pauses)
    .values(type=sa.bindparam("type"), at=now(), by=sa.bindparam("by"), why=sa.bindparam("why"))
    # A person takes over the pause of a circuit breaker, so that no probe ends it.
    .on_conflict_do_update(
        index_elements=[type_pauses.c.type],
        set_={"at": now(), "by": sa.bindparam("by"), "why": sa.bindparam("why")},
        where=type_pauses.c.by == word(BREAKER),
    )
    .returning(type_pauses.c.type)
    .execution_options(repeatable=False)
)
RESUME_TYPE = (
    sa.delete(type_pauses)
    .where(type_pauses.c.type == sa.bindparam("paused_type"))
    .returning(type_pauses.c.type)
    .execution_options(repeatable=False)
)
PAUSED_TYPES = sa.select(type_pauses).order_by(type_pauses.c.type)


_limit = sa.bindparam("limit", type_=sa.Integer)
_searched = sa.bindparam("searched", type_=sa.Integer)


class Search(NamedTuple):
    """Searches the pending events in the order of ``due_at``, some at a time."""

    which: sa.Select[Any]
    """Up to ``limit`` of the ``searched`` events after a place that are to be changed."""
    end: sa.Select[Any]
    """The last one of the ``searched`` events. None if there are fewer."""


def _search(within: sa.ColumnElement[bool], *, paused: bool) -> Search:
    """Return the search ``within`` a range of ``due_at``, for events of ``paused`` types or not.

    The parameters ``due_at`` and ``after_id`` are the place: the event after which it begins.
    """
    place = sa.tuple_(sa.bindparam("due_at", type_=sa.Double), sa.bindparam("after_id"))
    in_order = (
        sa.select(events.c.due_at, events.c.id, events.c.type)
        .where(
            events.c.state == word(State.PENDING),
            within,
            sa.tuple_(events.c.due_at, events.c.id) > place,
        )
        .order_by(events.c.due_at, events.c.id)
    )
    some = in_order.limit(_searched).subquery("some")
    is_paused = is_type_paused(some)
    return Search(
        sa.select(some.c.due_at, some.c.id)
        .where(is_paused if paused else ~is_paused)
        .order_by(some.c.due_at, some.c.id)
        .limit(_limit),
        in_order.limit(ONE).offset(_searched - ONE),
    )


#: Finds due events of paused types.
DUE_AND_PAUSED = _search(events.c.due_at <= now(), paused=True)

#: Finds parked events whose type is not paused.
PARKED_AND_RESUMED = _search(events.c.due_at >= parking.parked, paused=False)


def _move(count: int, *which: sa.ColumnElement[bool], **values: Any) -> sa.Executable:
    """Return the statement that sets ``values`` in those of ``count`` events that match."""
    these = events.c.id.in_([sa.bindparam(f"event_id_{each}") for each in range(count)])
    free = (
        sa.select(events.c.id)
        .where(these, events.c.state == word(State.PENDING), *which)
        .with_for_update(skip_locked=True)
    )
    return (
        sa.update(events)
        .where(events.c.id.in_(free))
        .values(**values)
        .returning(events.c.id)
        .execution_options(all_rows=True)
    )


@cache
def park(count: int) -> sa.Executable:
    """Return the statement that parks those of ``count`` events that are due and paused."""
    which = (events.c.due_at <= now(), is_type_paused(events))
    return _move(
        count, *which, due_at=events.c.due_at + parking.parked, outcome=parking.parked_outcome
    )


@cache
def unpark(count: int) -> sa.Executable:
    """Return the statement that makes those of ``count`` events due that are parked."""
    which = (events.c.due_at >= parking.parked, ~is_type_paused(events))
    return _move(count, *which, due_at=events.c.due_at - parking.parked, outcome=parking.outcome)
