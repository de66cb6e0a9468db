"""The statements of the rate limits for Stripe's API: one row is one stream of request slots.

``free_at`` is the time of the next free slot. A reservation moves it forward in one statement. So
all processes share one stream, by the database's clock.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from app.inbox.sql.schema import budgets, now

_slots = sa.bindparam("slots", type_=sa.Double)
_interval = sa.bindparam("interval", type_=sa.Double)
_pause_end = now() + sa.bindparam("pause", type_=sa.Double)
_slow_end = now() + sa.bindparam("slow", type_=sa.Double)
_never = sa.literal_column("0.0", sa.Double)

#: Seconds between two slots: twice as many until ``slow_until``.
_pace = sa.case((budgets.c.slow_until > now(), _interval + _interval), else_=_interval)


def _later(one: sa.ColumnElement[float], other: sa.ColumnElement[float]) -> sa.Case[float]:
    # The two databases spell it differently: max() and greatest().
    return sa.case((one > other, one), else_=other)


#: Reserves slots. Returns the seconds until the last of them ends, and between two of them.
RESERVE = (
    insert(budgets)
    .values(name=sa.bindparam("name"), free_at=now() + _slots * _interval, slow_until=_never)
    .on_conflict_do_update(
        index_elements=[budgets.c.name],
        set_={"free_at": _later(budgets.c.free_at, now()) + _slots * _pace},
    )
    .returning(budgets.c.free_at - now(), _pace)
)

#: Gives out no slot during the pause, and half as many for some time.
SLOW_DOWN = (
    insert(budgets)
    .values(name=sa.bindparam("name"), free_at=_pause_end, slow_until=_slow_end)
    .on_conflict_do_update(
        index_elements=[budgets.c.name],
        set_={
            "free_at": _later(budgets.c.free_at, _pause_end),
            "slow_until": _later(budgets.c.slow_until, _slow_end),
        },
    )
    .returning(budgets.c.name)
)
