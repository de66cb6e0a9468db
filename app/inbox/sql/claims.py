"""The statements that claim an event.

A worker claims by conditions, a person and the reconciler by the event's id.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from app.inbox.row_for_each import RowForEach
from app.inbox.sql import parking
from app.inbox.sql.literals import number, word
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
from app.inbox.sql.schema import events, now, pauses, retries
from app.states import WITHOUT_MODULE, State

#: Seconds within which two times of one event are the same: parking rounds them.
SAME_SECONDS = 0.001

#: Earlier than every ``due_at``.
EARLIEST = -1e18

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


#: The slot of an orphan. A replica of an earlier version leaves one in an event that it settles.
_running_slot = sa.case((events.c.state == word(State.RUNNING), events.c.slot))


def claim(*which: sa.ColumnElement[bool], **values: Any) -> sa.Update:
    """Return the statement that claims the event of these conditions, with more ``values``."""
    return (
        sa.update(events)
        .where(*which)
        .values(**{**reclaimed, "slot": _running_slot, **values})
        .returning(*returned_columns)
        .execution_options(result=OF_TOKEN)
    )


def is_type_paused(event: Any) -> sa.ColumnElement[bool]:
    """True for an event of a paused type.

    Not with ``EXISTS``: PostgreSQL joins such a table, and expects hundreds of rows in one without
    statistics. It would then read and sort all due events at each claim.
    """
    paused: sa.ColumnElement[bool] = event.c.type.in_(sa.select(type_pauses.c.type))
    return paused


#: True for an event of the API key's mode.
of_mode = candidate.c.livemode == sa.bindparam("livemode")
#: A worker claims only events of its API key's mode, and none while all or their type are paused.
for_workers = sa.and_(of_mode, ~sa.exists(sa.select(pauses.c.id)), ~is_type_paused(candidate))
_is_due = sa.and_(candidate.c.state == word(State.PENDING), candidate.c.due_at <= now())

#: True if another event holds the concurrency key.
is_locked = sa.exists(
    sa.select(_other.c.id).where(
        _other.c.locked_key == candidate.c.concurrency_key, _other.c.id != candidate.c.id
    )
)
#: True if another event of the same key is due before. It keeps two workers from choosing two
#: events of one key at the same moment: both choose the first event, and one of them gets it.
#: No worker claims an event of a paused type, so such an event does not count.
#: The ranges leave only the index ``events_waiting``. For ``concurrency_key = ...``, PostgreSQL
#: without statistics reads ``events_due`` from its begin.
_place = sa.tuple_(_other.c.concurrency_key, _other.c.due_at, _other.c.id)
elder = sa.select(_other.c.id).where(
    _other.c.state == word(State.PENDING),
    _other.c.livemode == candidate.c.livemode,
    _place >= sa.tuple_(candidate.c.concurrency_key, number(EARLIEST), word("")),
    _place
    < sa.tuple_(candidate.c.concurrency_key, candidate.c.due_at + number(0.0), candidate.c.id),
    ~is_type_paused(_other),
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

#: Claims an orphan of a type, though the type is paused: a probe whose process crashed.
CLAIM_CRASHED_PROBE = claim(
    is_chosen(
        first_unlocked(
            sa.select(candidate.c.id)
            .where(
                rescuable(candidate),
                candidate.c.type == sa.bindparam("parked_type"),
                of_mode,
                ~sa.exists(sa.select(pauses.c.id)),
                ~is_locked,
            )
            .order_by(candidate.c.lease_until)
        )
    ),
    locked_key=events.c.concurrency_key,
    crashes=events.c.crashes + ONE,
).execution_options(races=True)

_seen_attempt = sa.bindparam("seen_attempt", type_=sa.Integer)

#: True for an event that is as the person has seen it, or if that is not given. Two people can have
#: the same question open. A retry changes the ``due_at`` of a pending event, and only that.
_is_as_seen = sa.or_(
    _seen_attempt.is_(None),
    sa.and_(
        events.c.attempt == _seen_attempt,
        events.c.state == sa.bindparam("seen_state", type_=sa.Text),
        sa.func.abs(parking.due_at - sa.bindparam("seen_due_at", type_=sa.Double))
        < number(SAME_SECONDS),
    ),
)

#: True for an event that a person can have run. A done event that a handler module ran is run only
#: ``again``, and an erased one never.
retriable = sa.and_(
    _is_as_seen,
    events.c.erased_at.is_(None),
    sa.or_(
        events.c.state.in_([word(State.PENDING), word(State.DEAD)]),
        sa.and_(
            events.c.state == word(State.DONE),
            sa.or_(
                sa.bindparam("again", type_=sa.Boolean),
                events.c.outcome.in_([word(each) for each in sorted(WITHOUT_MODULE)]),
            ),
        ),
    ),
)

#: The record of a retry by a person.
retry_note = RowForEach(
    retries,
    "event_id",
    {
        "at": now(),
        "by": sa.cast(sa.bindparam("by"), sa.Text),
        "why": sa.cast(sa.bindparam("why"), sa.Text),
    },
)

#: Claims one event by its id, for a person, and records the retry.
CLAIM_ONE = claim(
    events.c.id == sa.bindparam("event_id"),
    sa.or_(retriable, sa.and_(_is_as_seen, orphaned(events))),
).execution_options(also=retry_note)

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
