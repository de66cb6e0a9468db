"""Adds error groups, releases, the audit log, paused types, activity, alerts, findings, indexes.

The new names have a prefix: a database may belong to other applications too, and an upgrade must
not meet a table of theirs. Attempts that failed are counted by a trigger, in the transaction that
records them, so no count is lost with a process.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from app.inbox.sql.indexes import indexes_of_events

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

#: The oldest revision whose code works with these tables.
works_with = "0004"

_PREFIX = "stripe_receiver_"

_NOW = {
    "sqlite": "((julianday('now') - 2440587.5) * 86400.0)",
    "postgresql": "EXTRACT(EPOCH FROM statement_timestamp())::double precision",
}

#: Writes an attempt into its table when the next one begins, as ``0002_queue.py`` describes. A
#: parked event has the outcome ``paused_failed`` or ``paused_released``
#: (``app/inbox/sql/parking.py``). The history has ``failed`` or ``released``.
_BEGINS = "NEW.attempt <> OLD.attempt AND OLD.claimed_at IS NOT NULL"
_CRASHED = "{old}.state = 'running'"
_CRASH = "'crashed.' || {old}.type"
_REMEMBER = f"""
    INSERT INTO {{schema}}attempts
        (event_id, attempt, claimed_by, started_at, ended_at, outcome, reason, traceback,
        fingerprint, release)
    SELECT {{old}}.id, {{old}}.attempt, {{old}}.claimed_by, {{old}}.claimed_at,
        CASE WHEN {_CRASHED} THEN {{now}} ELSE COALESCE({{old}}.settled_at, {{now}}) END,
        CASE WHEN {_CRASHED} THEN 'crashed'
            ELSE COALESCE(replace({{old}}.outcome, 'paused_', ''), 'unknown') END,
        CASE WHEN {_CRASHED} THEN NULL ELSE {{old}}.reason END,
        CASE WHEN {_CRASHED} THEN NULL ELSE {{old}}.traceback END,
        CASE WHEN {_CRASHED} THEN {_CRASH} ELSE {{old}}.fingerprint END,
        CASE WHEN {_CRASHED} THEN NULL ELSE {{old}}.release END
    WHERE NOT EXISTS
        (SELECT 1 FROM {{schema}}attempts
        WHERE event_id = {{old}}.id AND attempt = {{old}}.attempt);
"""  # noqa: S608 - all of it is written here

#: Counts an attempt that failed, or that crashed.
_COUNT_GROUP = """
    INSERT INTO {schema}stripe_receiver_error_groups
        (fingerprint, exception, place, type, first_at, last_at, attempts, event_id, release)
    SELECT {fingerprint}, {exception}, NULL, {row}.type, {at}, {at}, 1, {row}.id, {release}
    WHERE {row}.state = {state}
    ON CONFLICT (fingerprint) DO UPDATE SET type = excluded.type, last_at = excluded.last_at,
        attempts = stripe_receiver_error_groups.attempts + 1, event_id = excluded.event_id,
        release = excluded.release;
"""
_COUNT_HOUR = """
    INSERT INTO {schema}stripe_receiver_error_hours (fingerprint, hour, release, attempts)
    SELECT {fingerprint}, {hour}, COALESCE({release}, ''), 1
    WHERE {row}.state = {state}
    ON CONFLICT (fingerprint, hour, release) DO UPDATE
        SET attempts = stripe_receiver_error_hours.attempts + 1;
"""

#: A claim by a replica of an older version leaves the fingerprint of the attempt before.
_CLEAR = """
    UPDATE {schema}events SET fingerprint = NULL, release = NULL
    WHERE id = {row}.id AND fingerprint IS NOT NULL;
"""

#: The result of an attempt that failed is recorded, perhaps after a stop released the event. A
#: success changes no fingerprint, so it costs nothing. A result that is sent again finds another
#: state or outcome, and counts nothing.
_FAILED = (
    "(OLD.state = 'running'"
    " OR OLD.state = 'pending' AND OLD.outcome IN ('released', 'paused_released'))"
    " AND NEW.state IN ('pending', 'dead') AND NEW.fingerprint IS NOT NULL"
)


def upgrade() -> None:
    """Add columns, tables, indexes and triggers."""
    for column in ("fingerprint", "release", "trace"):
        op.add_column("events", sa.Column(column, sa.Text))
    op.add_column("events", sa.Column("erased_at", sa.Double))
    for column in ("fingerprint", "release"):
        op.add_column("attempts", sa.Column(column, sa.Text))
    _make_error_tables()
    _make_tables_of_operators()
    _make_tables_of_watch()
    dialect = op.get_bind().dialect.name
    _make_indexes(dialect)
    if dialect == "sqlite":
        _make_triggers_on_sqlite()
    else:
        _make_triggers_on_postgresql()


def _make_error_tables() -> None:
    op.create_table(
        f"{_PREFIX}error_groups",
        sa.Column("fingerprint", sa.Text, primary_key=True),
        sa.Column("exception", sa.Text),
        sa.Column("place", sa.Text),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("first_at", sa.Double, nullable=False),
        sa.Column("last_at", sa.Double, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("release", sa.Text),
    )
    op.create_table(
        f"{_PREFIX}error_hours",
        sa.Column("fingerprint", sa.Text, primary_key=True),
        sa.Column("hour", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("release", sa.Text, primary_key=True),
        sa.Column("attempts", sa.Integer, nullable=False),
    )
    op.create_table(
        f"{_PREFIX}releases",
        sa.Column("release", sa.Text, primary_key=True),
        sa.Column("first_at", sa.Double, nullable=False),
    )


def _make_tables_of_operators() -> None:
    op.create_table(
        f"{_PREFIX}audit",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("target", sa.Text),
        sa.Column("why", sa.Text),
        sa.Column("affected", sa.Integer),
    )
    op.create_table(
        f"{_PREFIX}type_pauses",
        sa.Column("type", sa.Text, primary_key=True),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("why", sa.Text),
    )


def _make_tables_of_watch() -> None:
    op.create_table(
        f"{_PREFIX}activity",
        sa.Column("kind", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("bucket", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("last_at", sa.Double, nullable=False),
    )
    op.create_table(
        f"{_PREFIX}alerts",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("alert", sa.Text, nullable=False),
        sa.Column("group", sa.Text),
        sa.Column("since", sa.Double, nullable=False),
        sa.Column("seen_at", sa.Double, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("resolved_at", sa.Double),
        sa.Column("details", sa.Text),
    )
    op.create_table(
        f"{_PREFIX}alert_messages",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("alert_id", sa.Text, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("sent_at", sa.Double),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("due_at", sa.Double, nullable=False),
    )
    op.create_table(
        f"{_PREFIX}findings",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("level", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("since", sa.Double, nullable=False),
        sa.Column("seen_at", sa.Double, nullable=False),
        sa.Column("details", sa.Text),
    )


def _make_indexes(dialect: str) -> None:
    # In a transaction, an index of a large table blocks all deliveries. The service builds the
    # missing ones afterwards, beside the deliveries (``app/inbox/indexes.py``). SQLite cannot.
    is_empty = op.get_bind().execute(sa.text("SELECT 1 FROM events LIMIT 1")).first() is None
    for each in indexes_of_events(dialect) if is_empty or dialect == "sqlite" else ():
        op.execute(each.create())
    op.create_index(f"{_PREFIX}audit_target", f"{_PREFIX}audit", ["target"])
    op.create_index(f"{_PREFIX}error_groups_last", f"{_PREFIX}error_groups", ["last_at"])
    op.create_index(f"{_PREFIX}alert_messages_due", f"{_PREFIX}alert_messages", ["sent_at"])


def _make_triggers_on_sqlite() -> None:
    remember, failed = _statements("sqlite", "OLD", "NEW", "", "CAST({at} / 3600 AS INTEGER)")
    op.execute("DROP TRIGGER attempt_begins")
    op.execute(
        "CREATE TRIGGER attempt_begins AFTER UPDATE OF attempt ON events"
        f" WHEN {_BEGINS} BEGIN {' '.join(remember)} END"
    )
    op.execute(
        f"CREATE TRIGGER {_PREFIX}failed AFTER UPDATE OF fingerprint ON events"
        f" WHEN {_FAILED} BEGIN {' '.join(failed)} END"
    )


def _make_triggers_on_postgresql() -> None:
    hour = "floor({at} / 3600)::integer"
    remember, failed = _statements("postgresql", "$1", "$1", "%1$I.", hour)
    _replace_function("remember_attempt", remember, "OLD")
    _replace_function(f"{_PREFIX}failed", failed, "NEW")
    op.execute(
        f"CREATE TRIGGER {_PREFIX}failed AFTER UPDATE OF fingerprint ON events FOR EACH ROW"
        f" WHEN ({_FAILED}) EXECUTE FUNCTION {_PREFIX}failed()"
    )


def _statements(
    dialect: str, old: str, new: str, schema: str, hour: str
) -> tuple[list[str], list[str]]:
    """Return the statements for an attempt that begins, and for one that failed."""
    now = _NOW[dialect]
    crashed = {
        "fingerprint": _CRASH.format(old=old),
        "exception": "'crashed'",
        "row": old,
        "state": "'running'",
        "at": now,
        "release": "NULL",
        "hour": hour.format(at=now),
        "schema": schema,
    }
    failed = {
        "fingerprint": f"{new}.fingerprint",
        "exception": f"CASE WHEN {new}.outcome = 'crashed' THEN 'crashed' END",
        "row": new,
        "state": f"{new}.state",
        "at": f"{new}.settled_at",
        "release": f"{new}.release",
        "hour": hour.format(at=f"{new}.settled_at"),
        "schema": schema,
    }
    counts = (_COUNT_GROUP, _COUNT_HOUR)
    remember = _REMEMBER.format(now=now, old=old, schema=schema)
    return (
        [remember, *(each.format(**crashed) for each in (*counts, _CLEAR))],
        [each.format(**failed) for each in counts],
    )


def _replace_function(name: str, statements: list[str], row: str) -> None:
    """Create the function of a trigger. Its statements name the schema of the trigger's table."""
    body = " ".join(
        f"EXECUTE format({_quoted(each)}, TG_TABLE_SCHEMA) USING {row};" for each in statements
    )
    op.execute(
        f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql"
        f" AS $$ BEGIN {body} RETURN NULL; END $$"
    )


def _quoted(text: str) -> str:
    return "'" + text.strip().removesuffix(";").replace("'", "''") + "'"
