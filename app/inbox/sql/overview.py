"""The statements of the overview: open events by the hour of their receipt, and the size."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import FunctionElement

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


class database_bytes(FunctionElement[int]):  # noqa: N801 - a function in SQL
    """The size of the database in bytes, with the tables of other applications in it."""

    inherit_cache = True
    type = sa.BigInteger()


@compiles(database_bytes, "postgresql")
def _bytes_on_postgresql(_element: database_bytes, _compiler: Any, **_kw: Any) -> str:
    return "pg_database_size(current_database())"


@compiles(database_bytes, "sqlite")
def _bytes_on_sqlite(_element: database_bytes, _compiler: Any, **_kw: Any) -> str:
    return "(SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size())"


#: The size, and the time of the first receipt. The index of the times of receipt has it.
EXTENT = sa.select(
    database_bytes().label("size"),
    sa.select(sa.func.min(events.c.received_at)).scalar_subquery().label("first"),
)
