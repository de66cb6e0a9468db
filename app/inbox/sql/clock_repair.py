"""The repair of times after a step back of the database's clock."""

from __future__ import annotations

import sqlalchemy as sa

from app.inbox.sql import parking
from app.inbox.sql.literals import number, word
from app.inbox.sql.schema import budgets, events, leaders, now
from app.states import State

CLOCK = sa.select(now())

_delayed = parking.is_delayed

#: What parking has added to ``due_at``.
_added = sa.case((events.c.due_at >= parking.parked, parking.parked), else_=number(0.0))
_due_at = events.c.due_at - _added

#: Makes events due that wait because the clock stepped back: now, or one delay from now. A parked
#: event stays parked, and is due then when its type is resumed.
REPAIR_EVENTS = (
    sa.update(events)
    .where(
        events.c.state == word(State.PENDING),
        _due_at > now(),
        sa.or_(
            events.c.outcome.is_(None),
            ~_delayed,
            events.c.settled_at > now(),
        ),
    )
    .values(
        due_at=_added + sa.case((_delayed, now() + (_due_at - events.c.settled_at)), else_=now()),
        settled_at=sa.case((events.c.settled_at > now(), now()), else_=events.c.settled_at),
    )
)

#: Frees the slots of a rate limit that are taken for more than ``ahead`` seconds from now.
REPAIR_RATE_LIMITS = (
    sa.update(budgets)
    .where(budgets.c.free_at > now() + sa.bindparam("ahead", type_=sa.Double))
    .values(free_at=now(), slow_until=now())
)

#: Ends the terms of leaders. The next process that asks is the leader.
REPAIR_LEADERS = sa.update(leaders).where(leaders.c.until > now()).values(until=now())

#: A slot more seconds in the future than this shows that the clock stepped back.
SLOT_SECONDS = 120.0
