"""The statements of the circuit breakers of event types.

A breaker is open while its type is paused by ``BREAKER``. Each statement decides by the rows
themselves, so any number of processes can run it at once, and one of them acts.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from app.inbox.models import BREAKER
from app.inbox.sql.literals import number, word
from app.inbox.sql.operations import type_failures, type_pauses
from app.inbox.sql.rows import ONE, ZERO
from app.inbox.sql.schema import now

_type: sa.BindParameter[Any] = sa.bindparam("failed_type", type_=sa.Text)
_number, _limit, _seconds = (
    sa.bindparam("number", type_=sa.Integer),
    sa.bindparam("limit", type_=sa.Integer),
    sa.bindparam("seconds", type_=sa.Double),
)
#: Not ``seconds``: for a read, this is the deadline.
_confirmed = sa.bindparam("confirmed_seconds", type_=sa.Double)
_is_type = type_failures.c.type == _type
_is_open = sa.and_(type_pauses.c.type == _type, type_pauses.c.by == word(BREAKER))

_failing = sa.select(
    type_failures.c.type, type_failures.c.failures, type_failures.c.reached_at, type_pauses.c.by
).join_from(type_failures, type_pauses, type_pauses.c.type == type_failures.c.type, isouter=True)
#: A process can end after it forgot the failures, and before it ended the pause.
_without_failures = sa.select(
    type_pauses.c.type, ZERO, sa.cast(sa.null(), sa.Double), type_pauses.c.by
).where(
    type_pauses.c.by == word(BREAKER),
    ~sa.exists(sa.select(ONE).where(type_failures.c.type == type_pauses.c.type)),
)
#: The types that failed since their last success, or that the breaker has paused, and who has
#: paused them.
ALL = sa.union_all(_failing, _without_failures)

_new = insert(type_failures).values(
    type=_type,
    failures=_number,
    reached_at=sa.case((_number >= _limit, now())),
)
_sum = type_failures.c.failures + _number
#: Adds failures of a type. ``reached_at`` is when their number reached the limit.
ADD = (
    _new.on_conflict_do_update(
        index_elements=[type_failures.c.type],
        set_={
            "failures": _sum,
            "reached_at": sa.func.coalesce(
                type_failures.c.reached_at, sa.case((_sum >= _limit, now()))
            ),
        },
    )
    .returning(type_failures.c.type)
    .execution_options(repeatable=False)
)

#: Forgets the failures of a type.
FORGET = sa.delete(type_failures).where(_is_type).returning(type_failures.c.type)

_is_due = sa.and_(_is_type, type_failures.c.reached_at < now() - _confirmed)
#: Reads a type that ``OPEN`` would pause.
DUE = sa.select(type_failures.c.type).where(
    _is_due, ~sa.exists(sa.select(ONE).where(type_pauses.c.type == type_failures.c.type))
)

#: Pauses a type whose failures reached the limit some seconds ago, unless it is paused.
OPEN = (
    insert(type_pauses)
    .from_select(
        ["type", "at", "by", "why"],
        sa.select(
            type_failures.c.type, now(), word(BREAKER), sa.cast(sa.bindparam("why"), sa.Text)
        ).where(_is_due),
    )
    .on_conflict_do_nothing(index_elements=[type_pauses.c.type])
    .returning(type_pauses.c.type)
    .execution_options(repeatable=False)
)

#: Ends the pause of a breaker. One of a person stays.
CLOSE = (
    sa.delete(type_pauses)
    .where(_is_open)
    .returning(type_pauses.c.type)
    .execution_options(repeatable=False)
)

_probe = insert(type_failures).from_select(
    ["type", "failures", "probe_at"],
    sa.select(type_pauses.c.type, ZERO, now()).where(_is_open),
)
_last_probe = sa.func.coalesce(type_failures.c.probe_at, type_failures.c.reached_at, number(0.0))
#: Gives the right to probe an open breaker to one process, once in so many seconds.
TAKE_PROBE = (
    _probe.on_conflict_do_update(
        index_elements=[type_failures.c.type],
        set_={"probe_at": now()},
        where=_last_probe <= now() - _seconds,
    )
    .returning(type_failures.c.type)
    .execution_options(repeatable=False)
)
