"""The statements that read the facts of alerts. Each is bounded, and walks an index."""

from __future__ import annotations

import sqlalchemy as sa

from app.inbox.sql.literals import number, word
from app.inbox.sql.operations import activity, error_groups, error_hours
from app.inbox.sql.schema import events, now
from app.states import Outcome, State

#: Pending and dead events that are counted at most.
BOUND = 1000
DEAD_BOUND = 5000

#: Error groups that are compared at most.
GROUPS = 50

#: Seconds of a period of the activity.
BUCKET = 300
BUCKETS_A_DAY = 86400 // BUCKET

#: Later than any time of an event, in seconds since the epoch.
LAST = 9e15

NOW = sa.select(now().label("now"))


def _of_state(state: State) -> sa.ColumnElement[bool]:
    """Return the events of a state, in the only form for which both planners use their index.

    It repeats the condition of the partial index, and the range gives the order of the index
    (``selection``).
    """
    place = sa.tuple_(events.c.state, events.c.received_at)
    return sa.and_(
        events.c.state.in_([word(State.PENDING), word(State.DEAD)]),
        place >= sa.tuple_(word(state), number(0.0)),
        place <= sa.tuple_(word(state), number(LAST)),
    )


_dead = (
    sa.select(
        events.c.type,
        events.c.outcome,
        events.c.fingerprint,
        events.c.release,
        events.c.settled_at,
        events.c.claimed_by,
    )
    .where(_of_state(State.DEAD))
    .order_by(events.c.state.desc(), events.c.received_at.desc())
    .limit(number(DEAD_BOUND))
    .subquery()
)
_is_new = _dead.c.settled_at > sa.bindparam("since", type_=sa.Double)
# An event that an operator gave up has no claim, and needs no person any more.
_is_given_up = sa.and_(_dead.c.outcome == word(Outcome.GAVE_UP), _dead.c.claimed_by.is_(sa.null()))
#: The latest dead events by error group, type and release, with the times at which they died.
DEAD = (
    sa.select(
        _dead.c.fingerprint,
        _dead.c.outcome,
        _dead.c.type,
        _dead.c.release,
        sa.func.count().label("number"),
        sa.func.min(sa.case((_is_new, _dead.c.settled_at))).label("first_at"),
        sa.func.max(_dead.c.settled_at).label("last_at"),
    )
    .where(~_is_given_up)
    .group_by(_dead.c.fingerprint, _dead.c.outcome, _dead.c.type, _dead.c.release)
    .order_by(sa.func.max(_dead.c.settled_at).desc())
    .execution_options(in_order=True)
)

CAUSES = sa.select(
    error_groups.c.fingerprint, error_groups.c.exception, error_groups.c.place
).where(error_groups.c.fingerprint.in_(sa.bindparam("fingerprints", expanding=True)))

_pending = (
    sa.select(events.c.received_at, events.c.due_at)
    .where(_of_state(State.PENDING))
    .order_by(events.c.state, events.c.received_at)
    .limit(number(BOUND))
    .subquery()
)
#: Counts the pending events, and returns how long the first of them waits.
PENDING = sa.select(
    sa.func.count().label("number"), (now() - sa.func.min(_pending.c.received_at)).label("oldest")
).execution_options(in_order=True)


#: Seconds by which a counter may be in the future: the clocks of processes differ a little.
AHEAD_SECONDS = 60.0

#: False for a counter that was written before the clock stepped back.
_is_past = activity.c.last_at <= now() + number(AHEAD_SECONDS)


def _of_kind(kind: str) -> sa.ColumnElement[bool]:
    """Return the rows of a kind and of the given names. The index begins with both."""
    return sa.and_(
        activity.c.kind == word(kind),
        activity.c.name.in_(sa.bindparam("names", expanding=True)),
        _is_past,
    )


#: Counts attempts by their outcome, with the first period of each, since a period.
ATTEMPTS = (
    sa.select(
        activity.c.name,
        sa.func.sum(activity.c.number).label("number"),
        sa.func.min(activity.c.bucket).label("first"),
    )
    .where(_of_kind("attempt"), activity.c.bucket >= sa.bindparam("bucket"))
    .group_by(activity.c.name)
)

#: The time of the last delivery, since a period.
LAST_DELIVERY = sa.select(sa.func.max(activity.c.last_at).label("at")).where(
    _of_kind("delivery"), activity.c.bucket >= sa.bindparam("bucket")
)

_back = sa.bindparam("bucket", type_=sa.Integer) - activity.c.bucket
_days_back = sa.cast(sa.func.floor(_back / sa.literal_column("288.0", sa.Double)), sa.Integer)
#: Counts the deliveries within so many periods before this one, today and on each day before.
SAME_HOURS = (
    sa.select(_days_back.label("day"), sa.func.sum(activity.c.number).label("number"))
    .where(
        _of_kind("delivery"),
        _back >= sa.literal_column("0"),
        _back - _days_back * sa.literal_column(str(BUCKETS_A_DAY))
        < sa.bindparam("periods", type_=sa.Integer),
    )
    .group_by(_days_back)
)

#: The first period with a delivery.
FIRST_DELIVERY = sa.select(sa.func.min(activity.c.bucket).label("bucket")).where(
    _of_kind("delivery")
)

_recent = (
    sa.select(error_groups.c.fingerprint, error_groups.c.exception, error_groups.c.place)
    .where(error_groups.c.last_at > sa.bindparam("since", type_=sa.Double))
    .order_by(error_groups.c.last_at.desc())
    .limit(sa.literal_column(str(GROUPS)))
    .subquery()
)
#: The error group with the most failed attempts since an hour.
WORST = (
    sa.select(_recent.c.exception, _recent.c.place)
    .join(error_hours, error_hours.c.fingerprint == _recent.c.fingerprint)
    .where(error_hours.c.hour >= sa.bindparam("hour"))
    .group_by(_recent.c.fingerprint, _recent.c.exception, _recent.c.place)
    .order_by(sa.func.sum(error_hours.c.attempts).desc())
    .limit(sa.literal_column("1"))
)

_good = activity.c.name.not_in([str(each) for each in (Outcome.FAILED, Outcome.UNAVAILABLE)])
_of_stripe = sa.and_(
    activity.c.kind == word("delivery"), activity.c.name != word(Outcome.REFUSED), _is_past
)
#: The time of the last delivery that was answered with 2xx.
LAST_SUCCESS = sa.select(sa.func.max(activity.c.last_at).label("at")).where(_of_stripe, _good)

#: Counts the deliveries that failed, and returns the first period of them, since a time.
FAILED_SINCE = sa.select(
    sa.func.coalesce(sa.func.sum(activity.c.number), number(0)).label("number"),
    sa.func.min(activity.c.bucket).label("bucket"),
).where(_of_stripe, ~_good, activity.c.last_at > sa.bindparam("since", type_=sa.Double))

#: The outcomes of deliveries that came from Stripe: their signature was verified.
AUTHENTIC = [str(each) for each in Outcome if each is not Outcome.REFUSED]
