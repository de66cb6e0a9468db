"""The table of events, as the migrations in ``app/migrations`` make it.

Times are seconds since the epoch by the database's clock: with several replicas no other
clock is shared, and leases are compared across them.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import FunctionElement

metadata = sa.MetaData()


def since(revision: str) -> dict[str, str]:
    """Return the mark of a table or a column that ``revision`` added. Others are of the first."""
    return {"since": revision}


#: One row per event. It is deduplication record, queue and history in one.
events = sa.Table(
    "events",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("livemode", sa.Boolean, nullable=False),
    sa.Column("context", sa.Text),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("outcome", sa.Text),
    sa.Column("reason", sa.Text),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("deliveries", sa.Integer, nullable=False),
    sa.Column("claimed_by", sa.Text),
    sa.Column("received_at", sa.Double, nullable=False),
    sa.Column("due_at", sa.Double, nullable=False),
    sa.Column("lease_until", sa.Double),
    sa.Column("settled_at", sa.Double),
    # The concurrency key, and the same key while this event holds it.
    sa.Column("subject", sa.Text, key="concurrency_key", nullable=False, info=since("0002")),
    sa.Column("holds", sa.Text, key="locked_key", info=since("0002")),
    sa.Column("claimed_at", sa.Double, info=since("0002")),
    sa.Column("traceback", sa.Text, info=since("0002")),
    # Attempts of the retry policy that are used up: a failure 1, a rate limit of Stripe's less.
    sa.Column("spent", sa.Double, key="attempts_used", nullable=False, info=since("0002")),
    # Consecutive crashes.
    sa.Column("crashes", sa.Integer, nullable=False, info=since("0002")),
    # ``delivery`` or ``reconcile``.
    sa.Column("source", sa.Text, nullable=False, info=since("0003")),
    # The seconds of a lease in the process that claimed the event. NULL if an older version did.
    sa.Column("lease_seconds", sa.Double, info=since("0004")),
    # The ``lease_until`` that live processes suspect, and for how many seconds they have seen it
    # unrenewed. Another ``lease_until`` is another lease, which is not suspected yet.
    sa.Column("suspected_lease", sa.Double, info=since("0004")),
    sa.Column(
        "suspected_seconds", sa.Double, nullable=False, server_default="0", info=since("0004")
    ),
    # The error group of the latest attempt if it failed, and the release that made this attempt.
    sa.Column("fingerprint", sa.Text, info=since("0006")),
    sa.Column("release", sa.Text, info=since("0006")),
    # The ``traceparent`` of the delivery (https://www.w3.org/TR/trace-context/).
    sa.Column("trace", sa.Text, info=since("0006")),
    # When the body was erased on request. Such an event is never run.
    sa.Column("erased_at", sa.Double, info=since("0006")),
    # Where it waits for a worker: '' unless its type has a policy (``lanes.py``).
    sa.Column("lane", sa.Text, nullable=False, server_default="", info=since("0007")),
    # Its number among the running events of a type with a limit.
    sa.Column("slot", sa.Integer, info=since("0007")),
)

#: One row per attempt but the latest, which the event's own row holds. A trigger writes it
#: (``0002_queue.py``).
attempts = sa.Table(
    "attempts",
    metadata,
    sa.Column("event_id", sa.Text, primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True),
    sa.Column("claimed_by", sa.Text),
    sa.Column("started_at", sa.Double, nullable=False),
    sa.Column("ended_at", sa.Double, nullable=False),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("traceback", sa.Text),
    sa.Column("fingerprint", sa.Text, info=since("0006")),
    sa.Column("release", sa.Text, info=since("0006")),
    info=since("0002"),
)

#: The retries that people asked for.
retries = sa.Table(
    "retries",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("event_id", sa.Text, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("why", sa.Text),
    info=since("0002"),
)

#: The effects of callbacks that ``app.once`` recorded. A trigger removes them with their event
#: (``0008_pairs.py``).
effects = sa.Table(
    "stripe_receiver_effects",
    metadata,
    sa.Column("event_id", sa.Text, primary_key=True),
    sa.Column("purpose", sa.Text, primary_key=True),
    sa.Column("at", sa.Double, nullable=False),
    info=since("0007"),
)

#: The claim of a pair that may run: of a snapshot event and the thin event of the same action at
#: Stripe. The key is the id of the snapshot event. It holds while the claim does, and stays after a
#: success (``app/inbox/sql/pairs.py``).
pair_holds = sa.Table(
    "stripe_receiver_pair_holds",
    metadata,
    sa.Column("pair_key", sa.Text, primary_key=True),
    sa.Column("event_id", sa.Text, nullable=False),
    sa.Column("token", sa.Text, nullable=False),
    info=since("0008"),
)

#: The thin events whose snapshot event is known.
thin_events = sa.Table(
    "stripe_receiver_thin_events",
    metadata,
    sa.Column("event_id", sa.Text, primary_key=True),
    sa.Column("snapshot_event", sa.Text, nullable=False),
    info=since("0008"),
)

#: One row while the workers are paused, none otherwise.
pauses = sa.Table(
    "pauses",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("why", sa.Text),
    info=since("0002"),
)

#: One row that a health check writes.
readiness = sa.Table(
    "readiness",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("checked_at", sa.Double, nullable=False),
)


class now(FunctionElement[float]):  # noqa: N801 - a function in SQL
    """The database's clock at the start of the statement, in seconds since the epoch.

    A statement uses it several times and needs one value. With PostgreSQL's ``clock_timestamp()``
    its conditions and the values that it sets could disagree.
    """

    inherit_cache = True
    type = sa.Double()


@compiles(now, "postgresql")
def _now_on_postgresql(_element: now, _compiler: Any, **_kw: Any) -> str:
    return "EXTRACT(EPOCH FROM statement_timestamp())::double precision"


@compiles(now, "sqlite")
def _now_on_sqlite(_element: now, _compiler: Any, **_kw: Any) -> str:
    # unixepoch('subsec') is younger than the SQLite that a host may fall back to.
    return "((julianday('now') - 2440587.5) * 86400.0)"


#: The watermarks: how far Stripe's list of the events of one type was read, for one account. The
#: account of the key itself is the empty context.
watermarks = sa.Table(
    "watermarks",
    metadata,
    sa.Column("livemode", sa.Boolean, primary_key=True),
    sa.Column("context", sa.Text, primary_key=True),
    sa.Column("type", sa.Text, primary_key=True),
    sa.Column("reached", sa.Double, nullable=False),
    info=since("0003"),
)

#: The leaders of tasks that one process may do at a time, and the ends of their terms.
leaders = sa.Table(
    "leaders",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("holder", sa.Text, key="leader_id", nullable=False),
    sa.Column("until", sa.Double, nullable=False),
    # The length of the term. NULL if an older version began it.
    sa.Column("seconds", sa.Double, info=since("0007")),
    info=since("0003"),
)

#: The rate limits for Stripe's API: the time of the next free slot, and the end of slow pace.
budgets = sa.Table(
    "budgets",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("free_at", sa.Double, nullable=False),
    sa.Column("slow_until", sa.Double, nullable=False),
    info=since("0003"),
)
