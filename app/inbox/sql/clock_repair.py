"""The repair of times after a step back of the database's clock."""

from __future__ import annotations

import sqlalchemy as sa

from app.inbox.models import PARKED
from app.inbox.sql import parking
from app.inbox.sql.literals import number, word
from app.inbox.sql.schema import budgets, events, leaders, now
from app.states import State

CLOCK = sa.select(now())

_delayed = parking.is_delayed

#: Makes events due that wait because the clock stepped back: now, or one delay from now.
REPAIR_EVENTS = (
    sa.update(events)
    .where(
        events.c.state == word(State.PENDING),
        events.c.due_at > now(),
        events.c.due_at < number(PARKED),
        sa.or_(
            events.c.outcome.is_(None),
            ~_delayed,
            events.c.settled_at > now(),
        ),
    )
    .values(
        due_at=sa.case(
            (_delayed, now() + (events.c.due_at - events.c.settled_at)),
            else_=now(),
        ),
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
