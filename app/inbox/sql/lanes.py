"""The claims of workers if some types have a limit or a low priority.

The claim without rules reads the due events in their order. It would have to skip all events that
may not run yet, such as 100,000 of one type. So the events of these types wait in lanes of their
own, and a claim reads the first event of each lane. A lane is a prefix of one index.

A running event of a type with a limit has a slot, a number from 1 to the limit. A unique index
refuses two events in one slot. On PostgreSQL two claims can choose one slot at the same moment.
Then the second one fails on the index, and the engine runs it again.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from typing import Any, NamedTuple

import sqlalchemy as sa

from app.inbox.claim_rules import LOW, NORMAL, ClaimRules
from app.inbox.sql import claims
from app.inbox.sql.claims import candidate
from app.inbox.sql.coalescing import claim_newest
from app.inbox.sql.literals import number, word
from app.inbox.sql.operations import type_pauses
from app.inbox.sql.rows import ONE, ZERO, rescuable
from app.inbox.sql.schema import events, now, pauses
from app.states import State


class LaneClaims(NamedTuple):
    """The statements that claim a due event, and an orphan.

    ``due`` has the parameter ``low_rank``: 1, or -1 to take an event of low priority first.
    """

    due: sa.Executable
    orphan: sa.Executable


@cache
def claims_with(rules: ClaimRules) -> LaneClaims:
    """Return the claims of a process with these ``rules``."""
    slot = _slot(rules)
    selected = _first_of_lanes(rules) if rules.has_lanes else claims.DUE
    if rules.coalesced:
        due = claim_newest(selected, rules, slot)
    else:
        due = claims.claim(
            claims.is_chosen(selected), locked_key=events.c.concurrency_key, slot=slot
        )
    orphan = claims.claim(
        claims.is_chosen(claims.first_unlocked(_orphans(rules))),
        locked_key=events.c.concurrency_key,
        crashes=events.c.crashes + ONE,
        slot=sa.func.coalesce(events.c.slot, slot),
    )
    return LaneClaims(
        # In order: without statistics PostgreSQL expects few events in a lane, and would sort all.
        due.execution_options(races=True, in_order=rules.has_lanes),
        orphan.execution_options(races=True),
    )


def _orphans(rules: ClaimRules) -> sa.Select[Any]:
    """Select the orphans that may run. One of a process without the limit may have no slot."""
    has_slot = sa.or_(
        candidate.c.slot.is_not(None),
        _is_none_of(rules.limited),
        *(
            sa.and_(candidate.c.type == word(each), _free_slot(each, limit).is_not(None))
            for each, limit in rules.limited.items()
        ),
    )
    return (
        sa.select(candidate.c.id)
        .where(rescuable(candidate), ~claims.is_locked, claims.for_workers, has_slot)
        .order_by(candidate.c.lease_until)
    )


def _first_of_lanes(rules: ClaimRules) -> sa.Select[Any]:
    """Select the event to claim: of the first events of all lanes, the one that is due first."""
    low_rank = sa.bindparam("low_rank", type_=sa.Integer)
    special = {*rules.limited, *rules.low}
    arms = [_arm(NORMAL, ZERO, ~claims.is_type_paused(candidate), _is_none_of(special))]
    if rules.low:
        arms.append(
            _arm(LOW, low_rank, ~claims.is_type_paused(candidate), _is_none_of(rules.limited))
        )
    for each, limit in rules.limited.items():
        # The lane has events of this type only.
        is_paused = sa.exists(sa.select(ONE).where(type_pauses.c.type == word(each)))
        is_open = sa.and_(~is_paused, _free_slot(each, limit).is_not(None))
        rank = low_rank if each in rules.low else ZERO
        arms.append(_arm(each, rank, is_open=is_open))
    arm_rows = [sa.select(arm.subquery(f"arm_{n}")) for n, arm in enumerate(arms)]
    heads = sa.union_all(*arm_rows).subquery("heads")
    order = (heads.c.rank, heads.c.due_at, heads.c.id)
    return claims.first(sa.select(heads.c.id).order_by(*order))


def _arm(
    lane: str,
    rank: sa.ColumnElement[Any],
    *which: sa.ColumnElement[bool],
    is_open: sa.ColumnElement[bool] | None = None,
) -> sa.Select[Any]:
    """Select the first due event of one lane that may be claimed. None if the lane is not open.

    The bounds are a range of places in the index of lanes. With an equation of the lane, PostgreSQL
    could choose the index of all due events, and skip those of the other lanes one by one. If the
    lane is closed, its name in the bounds is NULL. With a condition of its own, SQLite would test
    each event.
    """
    is_running = ~sa.exists(sa.select(pauses.c.id))
    name = sa.case((is_running if is_open is None else sa.and_(is_running, is_open), word(lane)))
    place = sa.tuple_(candidate.c.lane, candidate.c.due_at)
    return claims.first_unlocked(
        sa.select(rank.label("rank"), candidate.c.due_at, candidate.c.id)
        .where(
            candidate.c.state == word(State.PENDING),
            place >= sa.tuple_(name, number(0.0)),
            place <= sa.tuple_(word(lane), now()),
            claims.of_mode,
            ~claims.is_locked,
            ~claims.has_elder_in_lane,
            *which,
        )
        .order_by(candidate.c.lane, candidate.c.due_at, candidate.c.id)
    )


def _is_none_of(types: Collection[str]) -> sa.ColumnElement[bool]:
    """True for an event of none of the ``types``."""
    if not types:
        return sa.true()
    return candidate.c.type.not_in([word(each) for each in sorted(types)])


def _slot(rules: ClaimRules) -> sa.ColumnElement[Any]:
    """Return the slot that the claimed event gets: NULL if its type has no limit."""
    cases = [
        (events.c.type == word(each), _free_slot(each, limit))
        for each, limit in rules.limited.items()
    ]
    none = sa.cast(sa.null(), sa.Integer)
    return sa.case(*cases, else_=none) if cases else none


def _free_slot(event_type: str, limit: int) -> sa.ColumnElement[Any]:
    """Return the first free slot of a type, or NULL: slot 1, or the next one of a taken slot."""
    taken, same = events.alias("taken"), events.alias("same")

    def is_running(event: Any) -> sa.ColumnElement[bool]:
        return sa.and_(
            event.c.type == word(event_type),
            event.c.state == word(State.RUNNING),
            event.c.slot.is_not(None),
        )

    number_running = sa.select(sa.func.count()).where(is_running(taken)).scalar_subquery()
    after = sa.select((taken.c.slot + ONE).label("slot")).where(is_running(taken))
    slots = sa.union_all(sa.select(ONE.label("slot")), after).subquery("slots")
    is_taken = sa.exists(sa.select(ONE).where(is_running(same), same.c.slot == slots.c.slot))
    return (
        sa.select(sa.func.min(slots.c.slot))
        # The number too: events can run in higher slots, from before the limit was lowered.
        .where(slots.c.slot <= number(limit), ~is_taken, number_running < number(limit))
        .scalar_subquery()
    )


_is_pending = events.c.state == word(State.PENDING)
_lane = sa.bindparam("lane", type_=sa.Text)

_found = (
    sa.select(sa.func.min(events.c.lane).label("lane"))
    .where(_is_pending)
    .cte("found", recursive=True)
)
_next = (
    sa.select(sa.func.min(events.c.lane))
    .where(_is_pending, events.c.lane > _found.c.lane)
    .scalar_subquery()
)
_lanes = _found.union_all(sa.select(_next).where(_found.c.lane.is_not(None)))

#: The lanes with pending events. It reads one row of the index for each.
LANES = sa.select(_lanes.c.lane).where(_lanes.c.lane.is_not(None))

_place = sa.tuple_(events.c.lane, events.c.due_at)


def first_due(*columns: sa.ColumnElement[Any]) -> sa.Subquery:
    """Select of the events of one lane those that have been due for longest.

    The parameters are ``lane``, ``overdue``, the seconds for which they are due, and ``searched``,
    the number of events.
    """
    overdue = now() - sa.bindparam("overdue", type_=sa.Double)
    return (
        sa.select(*columns)
        .where(
            _is_pending,
            _place >= sa.tuple_(_lane, number(0.0)),
            _place <= sa.tuple_(_lane, overdue),
        )
        .order_by(events.c.lane, events.c.due_at, events.c.id)
        .limit(sa.bindparam("searched", type_=sa.Integer))
        .subquery("due")
    )


def _lane_of(event_type: sa.ColumnElement[str], rules: ClaimRules) -> sa.ColumnElement[str]:
    """Return the lane in which events of this type have to wait."""
    own = [(event_type == word(each), word(each)) for each in rules.limited]
    low = [(event_type == word(each), word(LOW)) for each in sorted(rules.low)]
    return sa.case(*own, *low, else_=word(NORMAL))


@cache
def misplaced(rules: ClaimRules) -> sa.Select[Any]:
    """Select some due events of one lane that have to wait in another one."""
    due = first_due(events.c.id, events.c.type)
    return (
        sa.select(due.c.id)
        .where(_lane_of(due.c.type, rules) != _lane)
        .limit(sa.bindparam("limit", type_=sa.Integer))
    )


@cache
def place(rules: ClaimRules, count: int) -> sa.Executable:
    """Return the statement that moves those of ``count`` events that are pending to their lanes."""
    these = events.c.id.in_([sa.bindparam(f"event_id_{each}") for each in range(count)])
    free = sa.select(events.c.id).where(these, _is_pending).with_for_update(skip_locked=True)
    return (
        sa.update(events)
        .where(events.c.id.in_(free))
        .values(lane=_lane_of(events.c.type, rules))
        .returning(events.c.id)
        .execution_options(all_rows=True)
    )
