"""The statements that remove old events, in steps along the index of the times of receipt."""

from __future__ import annotations

import sqlalchemy as sa

from app.inbox.sql.literals import number, word
from app.inbox.sql.operations import audit, error_groups, error_hours
from app.inbox.sql.schema import events, now
from app.states import State

_before = sa.bindparam("before", type_=sa.Double)
_place = sa.tuple_(events.c.received_at, events.c.id)


def _bound(name: str) -> sa.Tuple:
    """Return a place in the order of receipt: its time, and the id of its event."""
    return sa.tuple_(
        sa.bindparam(f"{name}_at", type_=sa.Double), sa.bindparam(f"{name}_id", type_=sa.Text)
    )


#: True for an event that is not needed any more. A dead one is kept for a person.
_removable = sa.and_(
    events.c.received_at < _before,
    events.c.settled_at < _before,
    events.c.state == word(State.DONE),
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
