"""The statements of the activity counters."""

from __future__ import annotations

from functools import cache

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from app.inbox.sql.literals import number, word
from app.inbox.sql.operations import activity
from app.inbox.sql.schema import now

#: Seconds of a period. One row counts one thing in one period.
PERIOD_SECONDS = 300

#: Seconds that the counters are kept.
KEPT_SECONDS = 8 * 86400

#: The kind that counts the deliveries of each signing secret.
SECRET = "secret"  # noqa: S105 - a kind of counter


@cache
def add_many(count: int) -> sa.Executable:
    """Return the statement that adds to ``count`` counters.

    The parameters are ``kind_0``, ``number_0`` and so on, in the order of the primary key: two
    processes then lock the rows in one order.
    """
    made = insert(activity).values([_row(each) for each in range(count)])
    added = made.excluded
    latest = sa.case((added.last_at > activity.c.last_at, added.last_at), else_=activity.c.last_at)
    return made.on_conflict_do_update(
        index_elements=[activity.c.kind, activity.c.name, activity.c.bucket],
        set_={"number": activity.c.number + added.number, "last_at": latest},
    ).returning(activity.c.kind)


def _row(each: int) -> dict[str, sa.ColumnElement[object]]:
    given = sa.bindparam(f"last_at_{each}", type_=sa.Double)
    names = ("kind", "name", "bucket", "number")
    return {
        **{name: sa.bindparam(f"{name}_{each}", type_=activity.c[name].type) for name in names},
        # A clock that is ahead must not hide later silence.
        "last_at": sa.case((given > now(), now()), else_=given),
    }


#: The period of rows about the present: how many worker threads a process has.
PRESENT = -1

#: Seconds after which the threads of a process are not counted. It shows them every five.
THREADS_SECONDS = 15

#: The kinds of worker threads. The name of such a row is the name of the process.
BUSY, IDLE = "busy_threads", "idle_threads"

_threads = insert(activity).values(
    [
        {
            "kind": word(kind),
            "name": sa.bindparam("process", type_=sa.Text),
            "bucket": number(PRESENT),
            "number": sa.bindparam(kind, type_=sa.Integer),
            "last_at": now(),
        }
        for kind in (BUSY, IDLE)
    ]
)

#: Records how many worker threads of a process run an event, and how many wait for one.
SHOW_THREADS = _threads.on_conflict_do_update(
    index_elements=[activity.c.kind, activity.c.name, activity.c.bucket],
    set_={"number": _threads.excluded.number, "last_at": _threads.excluded.last_at},
).returning(activity.c.kind)

#: The worker threads of all live processes, by kind. A ``last_at`` in the future is from before the
#: clock stepped back.
THREADS = (
    sa.select(activity.c.kind, sa.func.sum(activity.c.number).label("number"))
    .where(
        activity.c.kind.in_([word(BUSY), word(IDLE)]),
        activity.c.last_at > now() - number(float(THREADS_SECONDS)),
        activity.c.last_at <= now(),
    )
    .group_by(activity.c.kind)
)

#: The counters from one period on, in the order of time.
SINCE = (
    sa.select(activity)
    .where(activity.c.bucket >= sa.bindparam("bucket"))
    .order_by(activity.c.bucket, activity.c.kind, activity.c.name)
)

#: The time of the last delivery under each signing secret.
LAST_DELIVERIES = (
    sa.select(activity.c.name, sa.func.max(activity.c.last_at).label("last_at"))
    .where(activity.c.kind == word(SECRET))
    .group_by(activity.c.name)
)

_newer = activity.alias("newer")

#: Removes the counters that are too old, but for the latest one of each signing secret.
PRUNE = (
    sa.delete(activity)
    .where(
        activity.c.bucket
        < (now() - number(KEPT_SECONDS)) / number(float(PERIOD_SECONDS)) - number(1.0),
        sa.or_(
            activity.c.bucket != number(PRESENT),
            sa.func.abs(now() - activity.c.last_at) > number(float(PERIOD_SECONDS)),
        ),
        sa.or_(
            activity.c.kind != word(SECRET),
            sa.exists().where(
                _newer.c.kind == activity.c.kind,
                _newer.c.name == activity.c.name,
                _newer.c.bucket > activity.c.bucket,
            ),
        ),
    )
    .returning(activity.c.kind)
)
