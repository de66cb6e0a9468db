"""The statements that remove old events, in steps along the index of the times of receipt."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from app.inbox.sql.literals import number, word
from app.inbox.sql.operations import audit, error_groups, error_hours
from app.inbox.sql.rows import ONE, ZERO
from app.inbox.sql.schema import events, now, thin_events
from app.states import State

_before = sa.bindparam("before", type_=sa.Double)
_place = sa.tuple_(events.c.received_at, events.c.id)


def _bound(name: str) -> sa.Tuple:
    """Return a place in the order of receipt: its time, and the id of its event."""
    return sa.tuple_(
        sa.bindparam(f"{name}_at", type_=sa.Double), sa.bindparam(f"{name}_id", type_=sa.Text)
    )


_other = events.alias("other")


def _number_open(other_id: sa.ColumnElement[str], own_id: sa.ColumnElement[str]) -> Any:
    """Return the number of the other events of a pair that are not done.

    A number and not ``EXISTS``: PostgreSQL could read all pairs for that at each step.
    """
    pair = thin_events.join(_other, _other.c.id == other_id)
    return (
        sa.select(sa.func.count(ONE))
        .select_from(pair)
        .where(own_id == events.c.id, _other.c.state != word(State.DONE))
        .scalar_subquery()
    )


#: True for an event that is not needed any more. A dead one is kept for a person. An event stays
#: while the other one of its pair can run: that one would not know of its success.
_removable = sa.and_(
    events.c.received_at < _before,
    events.c.settled_at < _before,
    events.c.state == word(State.DONE),
    _number_open(thin_events.c.snapshot_event, thin_events.c.event_id) == ZERO,
    _number_open(thin_events.c.event_id, thin_events.c.snapshot_event) == ZERO,
)

#: The time of the latest delivery. A backfilled event has no signature that was checked against the
#: clock: with a wrong clock, reconciliation still records events.
_latest = (
    sa.select(events.c.received_at)
    .where(events.c.source == word("delivery"))
    .order_by(events.c.received_at.desc())
    .limit(number(1))
    .scalar_subquery()
)

#: The database's clock, and the time of the latest delivery.
CLOCK = sa.select(now().label("now"), _latest.label("latest"))

COUNT = sa.select(sa.func.count()).select_from(events).where(_removable)

#: The next events after a place, in the order of receipt, and which of them can be removed.
NEXT = (
    sa.select(events.c.received_at, events.c.id, _removable.label("is_removable"))
    .where(events.c.received_at < _before, _place > _bound("after"))
    .order_by(events.c.received_at, events.c.id)
    .limit(sa.bindparam("rows", type_=sa.Integer))
)

#: Removes the events between two places. A trigger removes their attempts and retries.
REMOVE = sa.delete(events).where(_place > _bound("after"), _place <= _bound("to"), _removable)

#: Removes the counts of failed attempts of old hours, in hours since the epoch.
REMOVE_HOURS = sa.delete(error_hours).where(
    error_hours.c.hour < sa.bindparam("hour", type_=sa.Integer)
)

#: Removes the error groups that have not failed for long, and that no event shows.
REMOVE_GROUPS = sa.delete(error_groups).where(
    error_groups.c.last_at < _before,
    ~sa.exists(sa.select(events.c.id).where(events.c.fingerprint == error_groups.c.fingerprint)),
)

REMOVE_AUDIT = sa.delete(audit).where(audit.c.at < _before)
