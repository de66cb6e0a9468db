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

#: One row per event. It is the record that deduplicates, the queue, and the history in one.
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
    # What may not run beside another of its kind, and that it is held by this event now.
    sa.Column("subject", sa.Text, key="concurrency_key", nullable=False),
    sa.Column("holds", sa.Text, key="locked_key"),
    sa.Column("claimed_at", sa.Double),
    sa.Column("traceback", sa.Text),
    # How much of its attempts is used up: a failure 1, a rate limit of Stripe's less.
    sa.Column("spent", sa.Double, key="attempts_used", nullable=False),
    # Claims in a row that ended with no word.
    sa.Column("crashes", sa.Integer, nullable=False),
    # How it came: by a ``delivery``, or by ``reconcile``.
    sa.Column("source", sa.Text, nullable=False),
    # Seconds from one renewal to the end of the lease, as the process that claimed it has them.
    # NULL if a version before claimed it, which does not say.
    sa.Column("lease_seconds", sa.Double),
    # The ``lease_until`` that live processes suspect, and for how many seconds they have seen it
    # unrenewed. Another ``lease_until`` is another lease, of which nothing is suspected yet.
    sa.Column("suspected_lease", sa.Double),
    sa.Column("suspected_seconds", sa.Double, nullable=False, server_default="0"),
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
)

#: Who had an event run again, and why.
retries = sa.Table(
    "retries",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("event_id", sa.Text, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("why", sa.Text),
)

#: One row while the workers are to claim nothing, none otherwise.
pauses = sa.Table(
    "pauses",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("why", sa.Text),
)

#: One row that is written to find out whether the inbox can be written.
readiness = sa.Table(
    "readiness",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("checked_at", sa.Double, nullable=False),
)


class now(FunctionElement[float]):  # noqa: N801 - it reads as the SQL function that it is
    """The database's clock at the start of the statement, in seconds since the epoch.

    On PostgreSQL it is ``statement_timestamp()`` and not ``clock_timestamp()``: a statement that
    asks several times has to get one answer, or it would half claim an event whose lease ends
    between two of its questions.
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


#: How far Stripe's list of the events of one type was read, for one account. The account of the
#: key itself is the empty context.
watermarks = sa.Table(
    "watermarks",
    metadata,
    sa.Column("livemode", sa.Boolean, primary_key=True),
    sa.Column("context", sa.Text, primary_key=True),
    sa.Column("type", sa.Text, primary_key=True),
    sa.Column("reached", sa.Double, nullable=False),
)

#: Who does what only one process may do at a time, and until when nobody else may.
leaders = sa.Table(
    "leaders",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("holder", sa.Text, key="leader_id", nullable=False),
    sa.Column("until", sa.Double, nullable=False),
)

#: From when on the next request to Stripe's API may be made, and until when half as many.
budgets = sa.Table(
    "budgets",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("free_at", sa.Double, nullable=False),
    sa.Column("slow_until", sa.Double, nullable=False),
)
