"""The rule for orphans.

A clock alone never ends a claim: it can step, and after an outage of the inbox every lease has
expired. An event is an orphan when its lease expired by the database's clock, and live processes
then saw it unrenewed for a further grace. They count the grace by their own monotonic clocks and
add it up in the row (``app/processing/rescuer.py``). So the count survives the end of each.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from app.inbox.sql.literals import number, word
from app.inbox.sql.schema import events, now
from app.states import State

#: The grace, as a share of the lease, and its least length in seconds. A live process renews
#: after at most half of its lease, and within a second when it finds its own lease expired.
GRACE_SHARE = 0.6
MIN_GRACE = 2.0

#: Seconds by which a lease may end later than one lease from now, for rounding. A lease that ends
#: later still was made before the clock stepped back, and counts as expired.
ROUNDING = 1.0

#: The grace, in seconds, of an event that a replica of an older version claimed: it does not record
#: the length of its lease.
UNKNOWN_GRACE = 60.0

#: The longest lease in seconds that there can be.
MAX_LEASE = 3600.0


def _grace(event: Any) -> sa.ColumnElement[float]:
    """Return for how many seconds an expired lease has to stay unrenewed."""
    share = number(GRACE_SHARE) * event.c.lease_seconds
    return sa.case(
        (event.c.lease_seconds.is_(None), number(UNKNOWN_GRACE)),
        (share > number(MIN_GRACE), share),
        else_=number(MIN_GRACE),
    )


def orphaned(event: Any) -> sa.ColumnElement[bool]:
    """True if the process that claimed the event is dead, or no longer renews its lease."""
    return sa.and_(
        event.c.state == word(State.RUNNING),
        event.c.suspected_lease == event.c.lease_until,
        event.c.suspected_seconds >= _grace(event),
    )


#: An event as a person sees it: the columns of its row, and whether it is an orphan.
shown = (events, orphaned(events).is_(sa.true()).label("is_orphan"))

#: For how many seconds the present lease was seen unrenewed.
_seen = sa.case(
    (events.c.suspected_lease == events.c.lease_until, events.c.suspected_seconds),
    else_=number(0.0),
)

_longest = sa.func.coalesce(events.c.lease_seconds, number(MAX_LEASE))

#: The running events whose lease expired by the clock and that are no orphans yet.
SUSPECTS = sa.select(
    events.c.id.label("event_id"),
    events.c.attempt,
    events.c.claimed_by.label("token"),
    events.c.lease_until,
    events.c.lease_seconds,
    _seen.label("seconds"),
).where(
    events.c.state == word(State.RUNNING),
    sa.or_(
        events.c.lease_until < now(),
        events.c.lease_until > now() + _longest + number(ROUNDING),
    ),
    _seen < _grace(events),
)

#: Adds to the seconds for which a lease was seen unrenewed. It changes nothing if the lease was
#: renewed, or if another process added seconds since: no second counts twice. Returns whether the
#: event is an orphan now.
SUSPECT = (
    sa.update(events)
    .where(
        events.c.id == sa.bindparam("event_id"),
        events.c.attempt == sa.bindparam("claim"),
        events.c.claimed_by == sa.bindparam("token"),
        events.c.state == word(State.RUNNING),
        events.c.lease_until == sa.bindparam("suspected", type_=sa.Double),
        _seen == sa.bindparam("before", type_=sa.Double),
    )
    .values(
        suspected_lease=events.c.lease_until,
        suspected_seconds=sa.bindparam("seconds", type_=sa.Double),
    )
    .returning(orphaned(events))
)
