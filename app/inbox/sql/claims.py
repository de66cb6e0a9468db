"""The statements that claim an event.

A worker claims by conditions, a person and the reconciler by the event's id.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from app.inbox.sql import parking
from app.inbox.sql.literals import word
from app.inbox.sql.operations import type_pauses
from app.inbox.sql.rescue import orphaned
from app.inbox.sql.rows import (
    ONE,
    ZERO,
    crashes,
    is_poison,
    poisoned,
    reclaimed,
    rescuable,
    returned_columns,
)
from app.inbox.sql.schema import events, now, pauses
from app.states import WITHOUT_MODULE, State

#: The event that a claim of a worker considers.
candidate = events.alias("candidate")
_other = events.alias("other")


def first(selected: sa.Select[Any]) -> sa.Select[Any]:
    """Select the first row that is ``selected``."""
    # SQLite's dialect would put an offset of its own, as a parameter.
    return selected.limit(ONE).offset(ZERO)


def first_unlocked(selected: sa.Select[Any]) -> sa.Select[Any]:
    """Select the first row that is ``selected`` and not locked by another transaction."""
    return first(selected).with_for_update(skip_locked=True)


def is_chosen(selected: sa.Select[Any]) -> sa.ColumnElement[bool]:
    """True for the event whose id is ``selected``."""
    chosen = selected.cte("chosen")
    return events.c.id == sa.select(chosen.c.id).scalar_subquery()


#: Finds the claim with this token. No other claim ever has the same one.
OF_TOKEN = sa.select(*returned_columns).where(
    events.c.claimed_by == sa.bindparam("token"), events.c.state == word(State.RUNNING)
)


def claim(*which: sa.ColumnElement[bool], **values: Any) -> sa.Update:
    """Return the statement that claims the event of these conditions, with more ``values``."""
    return (
        sa.update(events)
        .where(*which)
        .values(**reclaimed, **values)
        .returning(*returned_columns)
        .execution_options(result=OF_TOKEN)
    )


#: Not with ``EXISTS``: PostgreSQL joins such a table, and expects hundreds of rows in one without
#: statistics. It would then read and sort all due events at each claim.
is_type_paused = candidate.c.type.in_(sa.select(type_pauses.c.type))

#: A worker claims only events of its API key's mode, and none while all or their type are paused.
of_mode = candidate.c.livemode == sa.bindparam("livemode")
for_workers = sa.and_(of_mode, ~sa.exists(sa.select(pauses.c.id)), ~is_type_paused)
_is_due = sa.and_(candidate.c.state == word(State.PENDING), candidate.c.due_at <= now())

#: True if another event holds the concurrency key.
is_locked = sa.exists(
    sa.select(_other.c.id).where(
        _other.c.locked_key == candidate.c.concurrency_key, _other.c.id != candidate.c.id
    )
)
#: True if another event of the same key is due before. It keeps two workers from choosing two
#: events of one key at the same moment: both choose the first event, and one of them gets it.
elder = sa.select(_other.c.id).where(
    _other.c.state == word(State.PENDING),
    _other.c.concurrency_key == candidate.c.concurrency_key,
    _other.c.livemode == candidate.c.livemode,
    _other.c.due_at <= now(),
    sa.tuple_(_other.c.due_at, _other.c.id) < sa.tuple_(candidate.c.due_at, candidate.c.id),
)
has_elder = sa.exists(elder)
#: The same among the events of one lane. The function keeps the databases from using the index of
#: lanes, in which the event has all those of its lane before it.
has_elder_in_lane = sa.exists(
    elder.where(sa.func.coalesce(_other.c.lane, word("")) == candidate.c.lane)
)

#: Selects the event that has been due for longest and whose concurrency key is free.
DUE = first_unlocked(
    sa.select(candidate.c.id)
    .where(_is_due, ~is_locked, ~has_elder, for_workers)
    .order_by(candidate.c.due_at, candidate.c.id)
)

#: Claims this event.
CLAIM_DUE = claim(is_chosen(DUE), locked_key=events.c.concurrency_key)

#: Claims an orphan.
CLAIM_ORPHAN = claim(
    is_chosen(
        first_unlocked(
            sa.select(candidate.c.id)
            .where(rescuable(candidate), ~is_locked, for_workers)
            .order_by(candidate.c.lease_until)
        )
    ),
    locked_key=events.c.concurrency_key,
    crashes=events.c.crashes + ONE,
)

#: Claims a parked event of a type, though the type is paused: a probe of its circuit breaker.
CLAIM_PARKED = claim(
    is_chosen(
        first_unlocked(
            sa.select(candidate.c.id)
            .where(
                candidate.c.state == word(State.PENDING),
                candidate.c.due_at >= parking.parked,
                candidate.c.type == sa.bindparam("parked_type"),
                of_mode,
                ~sa.exists(sa.select(pauses.c.id)),
                ~is_locked,
            )
            .order_by(candidate.c.due_at, candidate.c.id)
        )
    ),
    locked_key=events.c.concurrency_key,
).execution_options(races=True)

_seen = sa.bindparam("seen_attempt", type_=sa.Integer)

#: True for an event that a person can have run. A done event that a handler module ran is run only
#: ``again``, and an erased one never. With ``seen_attempt``, a done event is run only if that is
#: still its last attempt: two people can have the same question open.
retriable = sa.and_(
    events.c.erased_at.is_(None),
    sa.or_(
        events.c.state.in_([word(State.PENDING), word(State.DEAD)]),
        sa.and_(
            events.c.state == word(State.DONE),
            sa.or_(
                sa.bindparam("again", type_=sa.Boolean),
                events.c.outcome.in_([word(each) for each in sorted(WITHOUT_MODULE)]),
            ),
            sa.or_(_seen.is_(None), events.c.attempt == _seen),
        ),
    ),
)

#: Claims one event by its id, for a person.
CLAIM_ONE = claim(
    events.c.id == sa.bindparam("event_id"),
    sa.or_(retriable, orphaned(events)),
)

#: True for a backfilled event that is due and not settled.
unfinished = sa.and_(
    events.c.source == word("reconcile"),
    events.c.livemode == sa.bindparam("livemode"),
    sa.or_(
        sa.and_(events.c.state == word(State.PENDING), events.c.due_at <= now()),
        rescuable(events),
    ),
)

#: Claims one backfilled event.
CLAIM_UNFINISHED = claim(
    events.c.id == sa.bindparam("event_id"),
    unfinished,
    crashes=crashes,
)

#: Marks an orphan dead that ended too many processes.
MARK_POISON_DEAD = (
    sa.update(events)
    .where(is_chosen(first_unlocked(sa.select(candidate.c.id).where(is_poison(candidate)))))
    .values(**poisoned, crashes=events.c.crashes + ONE)
    .returning(events.c.id, events.c.type, events.c.attempt, events.c.context)
)
