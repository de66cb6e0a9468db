"""The tables of the operator's tools, as the migrations in ``app/migrations`` make them.

Their names have a prefix, so that they meet no table of another application.
"""

from __future__ import annotations

import sqlalchemy as sa

from app.inbox.sql.schema import metadata, since

PREFIX = "stripe_receiver_"

#: One row per error group: the failed attempts with one exception type at one place in the code.
#: The application writes ``exception`` and ``place``, a trigger the rest (``0006_operations.py``).
error_groups = sa.Table(
    f"{PREFIX}error_groups",
    metadata,
    sa.Column("fingerprint", sa.Text, primary_key=True),
    sa.Column("exception", sa.Text),
    sa.Column("place", sa.Text),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("first_at", sa.Double, nullable=False),
    sa.Column("last_at", sa.Double, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("event_id", sa.Text, nullable=False),
    sa.Column("release", sa.Text),
    info=since("0006"),
)

#: The failed attempts of each group by hour, in hours since the epoch, and release. The same
#: trigger writes them.
error_hours = sa.Table(
    f"{PREFIX}error_hours",
    metadata,
    sa.Column("fingerprint", sa.Text, primary_key=True),
    sa.Column("hour", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("release", sa.Text, primary_key=True),
    sa.Column("attempts", sa.Integer, nullable=False),
    info=since("0006"),
)

#: The first start of each release.
releases = sa.Table(
    f"{PREFIX}releases",
    metadata,
    sa.Column("release", sa.Text, primary_key=True),
    sa.Column("first_at", sa.Double, nullable=False),
    info=since("0006"),
)

#: The actions of operators. ``affected`` is the number of events, NULL until the action has ended.
audit = sa.Table(
    f"{PREFIX}audit",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("target", sa.Text),
    sa.Column("why", sa.Text),
    sa.Column("affected", sa.Integer),
    info=since("0006"),
)

#: The event types that are paused.
type_pauses = sa.Table(
    f"{PREFIX}type_pauses",
    metadata,
    sa.Column("type", sa.Text, primary_key=True),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("why", sa.Text),
    info=since("0006"),
)

#: The event types that failed since their last success. ``reached_at``: when their failures in a
#: row reached the limit. ``probe_at``: when an event was tried while the type was paused for that.
type_failures = sa.Table(
    f"{PREFIX}type_failures",
    metadata,
    sa.Column("type", sa.Text, primary_key=True),
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("reached_at", sa.Double),
    sa.Column("probe_at", sa.Double),
    info=since("0007"),
)

#: Counters of deliveries and attempts, in periods of five minutes since the epoch.
activity = sa.Table(
    f"{PREFIX}activity",
    metadata,
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("bucket", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("last_at", sa.Double, nullable=False),
    info=since("0006"),
)

#: The conditions that operators are alerted of.
alerts = sa.Table(
    f"{PREFIX}alerts",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("alert", sa.Text, nullable=False),
    sa.Column("group", sa.Text),
    sa.Column("since", sa.Double, nullable=False),
    sa.Column("seen_at", sa.Double, nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("resolved_at", sa.Double),
    sa.Column("details", sa.Text),
    info=since("0006"),
)

#: The messages about alerts: an outbox. The id is the ``webhook-id`` of the message.
alert_messages = sa.Table(
    f"{PREFIX}alert_messages",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("alert_id", sa.Text, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("sent_at", sa.Double),
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Column("due_at", sa.Double, nullable=False),
    info=since("0006"),
)

#: The latest findings of the watch: destinations, clock, key, reconciliation.
findings = sa.Table(
    f"{PREFIX}findings",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("level", sa.Text, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("since", sa.Double, nullable=False),
    sa.Column("seen_at", sa.Double, nullable=False),
    sa.Column("details", sa.Text),
    info=since("0006"),
)
