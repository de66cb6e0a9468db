"""The statement of the timeline: open events by the hour of their receipt."""

from __future__ import annotations

import sqlalchemy as sa

from app.inbox.sql.literals import word
from app.inbox.sql.schema import events
from app.states import State

#: The latest events of each state that are counted.
MOST = 10_000

# Of whole seconds, which one database rounds and the other one truncates.
_hour = sa.cast(sa.column("received_at", sa.Double), sa.Integer) // 3600


def _latest(state: State) -> sa.Subquery:
    """Return the latest events of one state. The index ``events_open`` has them in this order."""
    return (
        sa.select(events.c.received_at)
        .where(events.c.state == word(state), events.c.received_at >= sa.bindparam("since"))
        .order_by(events.c.received_at.desc())
        .limit(MOST)
        .subquery()
    )


def _numbers(state: State) -> sa.Select[str, int, int]:
    return (
        sa.select(word(state).label("state"), _hour.label("hour"), sa.func.count().label("number"))
        .select_from(_latest(state))
        .group_by(_hour)
    )


#: Counts the pending and the dead events that were received ``since``, by hour.
OPEN_BY_HOUR = sa.union_all(_numbers(State.PENDING), _numbers(State.DEAD))
