"""The statements of the gauges."""

from __future__ import annotations

import sqlalchemy as sa

from app.inbox.sql.literals import number, word
from app.inbox.sql.schema import events
from app.states import State

#: Counting stops at this number, so that a scrape stays short.
MOST = 10_000


#: The states of the index ``stripe_receiver_open``. SQLite uses it only for its own condition.
_OPEN = (State.PENDING, State.DEAD)


def _count(state: State) -> sa.Label[int]:
    some = sa.select(events.c.id).where(events.c.state == word(state))
    if state in _OPEN:
        some = some.where(events.c.state.in_(map(word, _OPEN)))
    some = some.limit(number(MOST))
    return sa.select(sa.func.count()).select_from(some.subquery()).scalar_subquery().label(state)


#: The states whose events are counted. Each has an index.
STATES = (State.PENDING, State.RUNNING, State.DEAD)
NUMBERS = sa.select(*map(_count, STATES))
