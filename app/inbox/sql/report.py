"""The statements of the report on the inbox."""

from __future__ import annotations

import sqlalchemy as sa

from app.inbox.sql.literals import word
from app.inbox.sql.schema import events, now
from app.states import Outcome, State

#: Seconds back within which two hosts that ran events in turns are reported.
LOOK_BACK = 24 * 3600

_waits = sa.or_(
    events.c.state == word(State.PENDING),
    sa.and_(events.c.state == word(State.RUNNING), events.c.lease_until < now()),
)
#: Counts the waiting events. ``oldest`` and ``overdue`` are those of ``Report``.
WAITING = sa.select(
    sa.func.count().label("number"),
    (now() - sa.func.min(events.c.received_at)).label("oldest"),
    (now() - sa.func.min(events.c.due_at)).label("overdue"),
).where(_waits)

#: Seconds since the oldest due event became due, or none. One lookup in the index `events_due`.
OLDEST_DUE = sa.select((now() - sa.func.min(events.c.due_at)).label("age")).where(
    events.c.state == word(State.PENDING), events.c.due_at <= now()
)

#: Counts the events of one mode that the fallback took, by type.
BY_FALLBACK = (
    sa.select(events.c.type, sa.func.count().label("number"))
    .where(
        events.c.state == word(State.DONE),
        events.c.outcome == word(Outcome.FALLBACK),
        events.c.livemode == sa.bindparam("livemode"),
    )
    .group_by(events.c.type)
)

DEAD = sa.select(sa.func.count()).where(events.c.state == word(State.DEAD))

# A token begins with the host, the process and a random number (``store``).
_host = sa.func.substr(events.c.claimed_by, 1, sa.func.instr(events.c.claimed_by, ":") - 1)
#: The hosts that settled events within ``LOOK_BACK``, with the times of the first and the last one.
HOSTS = (
    sa.select(
        _host.label("host"),
        sa.func.min(events.c.settled_at).label("begin"),
        sa.func.max(events.c.settled_at).label("end"),
    )
    .where(events.c.claimed_by.is_not(None), events.c.settled_at > now() - LOOK_BACK)
    .group_by(_host)
    .order_by("begin")
)
