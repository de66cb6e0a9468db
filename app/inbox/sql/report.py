"""The statements of the report on the inbox."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from app.inbox.sql.literals import word
from app.inbox.sql.schema import events, now
from app.states import WITHOUT_MODULE, Outcome, State

#: Seconds back within which two hosts that ran events in turns are reported.
LOOK_BACK = 24 * 3600

#: Events of one kind that are counted at most.
BOUND = 10_000

#: The events whose lease has expired. There are at most as many as threads.
_expired = sa.and_(events.c.state == word(State.RUNNING), events.c.lease_until < now())
_pending = events.c.state == word(State.PENDING)
#: The condition of the index by state, as it stands in the index.
_is_open = events.c.state.in_([word(State.PENDING), word(State.DEAD)])


def _first(column: Any, *which: sa.ColumnElement[bool]) -> sa.ColumnElement[Any]:
    """Return the smallest value of a column. It is the first entry of an index."""
    return sa.select(sa.func.min(column)).where(*which).scalar_subquery()


_number = sa.select(sa.literal_column("1")).where(_pending).limit(BOUND + 1).subquery()
#: Counts the waiting events. ``oldest`` and ``overdue`` are those of ``Report``.
WAITING = sa.select(
    sa.select(sa.func.count()).select_from(_number).scalar_subquery().label("pending"),
    sa.select(sa.func.count()).where(_expired).scalar_subquery().label("expired"),
    now().label("now"),
    _first(events.c.received_at, _is_open, _pending).label("received"),
    _first(events.c.due_at, _pending).label("due"),
    _first(events.c.received_at, _expired).label("expired_received"),
    _first(events.c.due_at, _expired).label("expired_due"),
)

#: Seconds since the oldest due event became due, or none. One lookup in the index `events_due`.
OLDEST_DUE = sa.select((now() - sa.func.min(events.c.due_at)).label("age")).where(
    events.c.state == word(State.PENDING), events.c.due_at <= now()
)

_by_fallback = (
    sa.select(events.c.type, events.c.livemode)
    .where(
        events.c.state == word(State.DONE),
        events.c.outcome.in_([word(each) for each in sorted(WITHOUT_MODULE)]),
        events.c.outcome == word(Outcome.FALLBACK),
        events.c.erased_at.is_(None),  # it cannot run
    )
    .order_by(events.c.received_at.desc())
    .limit(BOUND)
    .subquery()
)
#: Counts the latest events of one mode that the fallback took, by type.
BY_FALLBACK = (
    sa.select(_by_fallback.c.type, sa.func.count().label("number"))
    .where(_by_fallback.c.livemode == sa.bindparam("livemode"))
    .group_by(_by_fallback.c.type)
)

# A token begins with the host, the process and a random number (``store``).
_latest = (
    sa.select(events.c.claimed_by, events.c.settled_at)
    .order_by(events.c.received_at.desc(), events.c.id.desc())
    .limit(BOUND)
    .subquery()
)
_host = sa.func.substr(_latest.c.claimed_by, 1, sa.func.instr(_latest.c.claimed_by, ":") - 1)
#: The hosts that settled some of the latest events within ``LOOK_BACK``, with the times of the
#: first and the last one.
HOSTS = (
    sa.select(
        _host.label("host"),
        sa.func.min(_latest.c.settled_at).label("begin"),
        sa.func.max(_latest.c.settled_at).label("end"),
    )
    .where(_latest.c.claimed_by.is_not(None), _latest.c.settled_at > now() - LOOK_BACK)
    .group_by(_host)
    .order_by("begin")
)
