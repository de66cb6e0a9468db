"""Adds the concurrency key, and the attempts, retries and pauses tables.

A trigger writes each attempt into its table when the next one begins. So no claim can omit it, not
even a rescue, and a claim stays one statement. An event that succeeds at its first attempt costs
nothing more.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_NOW = {
    "sqlite": "((julianday('now') - 2440587.5) * 86400.0)",
    "postgresql": "EXTRACT(EPOCH FROM statement_timestamp())::double precision",
}

#: The event's own row holds its latest attempt. When the next one begins, the former one is kept,
#: with the outcome in the old row, or ``crashed`` if it was still running.
_BEGINS = "NEW.attempt <> OLD.attempt AND OLD.claimed_at IS NOT NULL"
_CRASHED = "OLD.state = 'running'"
_REMEMBER = f"""
    INSERT INTO attempts
        (event_id, attempt, claimed_by, started_at, ended_at, outcome, reason, traceback)
    SELECT OLD.id, OLD.attempt, OLD.claimed_by, OLD.claimed_at,
        CASE WHEN {_CRASHED} THEN {{now}} ELSE COALESCE(OLD.settled_at, {{now}}) END,
        CASE WHEN {_CRASHED} THEN 'crashed' ELSE COALESCE(OLD.outcome, 'unknown') END,
        CASE WHEN {_CRASHED} THEN NULL ELSE OLD.reason END,
        CASE WHEN {_CRASHED} THEN NULL ELSE OLD.traceback END
    WHERE NOT EXISTS
        (SELECT 1 FROM attempts WHERE event_id = OLD.id AND attempt = OLD.attempt);
"""  # noqa: S608 - all of it is written here
_FORGET = """
    DELETE FROM attempts WHERE event_id = OLD.id;
    DELETE FROM retries WHERE event_id = OLD.id;
"""


def upgrade() -> None:
    """Add columns, tables, indexes and triggers."""
    _add_columns()
    _make_tables()
    _make_indexes()
    dialect = op.get_bind().dialect.name
    if dialect == "sqlite":
        _make_triggers_on_sqlite()
    else:
        _make_triggers_on_postgresql()


def _add_columns() -> None:
    op.add_column("events", sa.Column("subject", sa.Text, nullable=False, server_default=""))
    op.add_column("events", sa.Column("holds", sa.Text))
    op.add_column("events", sa.Column("claimed_at", sa.Double))
    op.add_column("events", sa.Column("traceback", sa.Text))
    op.add_column("events", sa.Column("spent", sa.Double, nullable=False, server_default="0"))
    op.add_column("events", sa.Column("crashes", sa.Integer, nullable=False, server_default="0"))
    # Existing events get a key of their own.
    op.execute("UPDATE events SET subject = 'event ' || id")


def _make_tables() -> None:
    op.create_table(
        "attempts",
        sa.Column("event_id", sa.Text, primary_key=True),
        sa.Column("attempt", sa.Integer, primary_key=True),
        sa.Column("claimed_by", sa.Text),
        sa.Column("started_at", sa.Double, nullable=False),
        sa.Column("ended_at", sa.Double, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("traceback", sa.Text),
    )
    op.create_table(
        "retries",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("why", sa.Text),
    )
    op.create_table(
        "pauses",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("by", sa.Text, nullable=False),
        sa.Column("why", sa.Text),
    )


def _make_indexes() -> None:
    pending, running = sa.text("state = 'pending'"), sa.text("state = 'running'")
    for name, columns, where, unique in (
        ("events_due", ["due_at", "id"], pending, False),
        ("events_waiting", ["subject", "due_at", "id"], pending, False),
        ("events_running", ["lease_until"], running, False),
        # Unique: two events cannot hold one concurrency key.
        ("events_holds", ["holds"], sa.text("holds IS NOT NULL"), True),
    ):
        op.create_index(
            name, "events", columns, unique=unique, sqlite_where=where, postgresql_where=where
        )
    op.create_index("events_received", "events", ["received_at", "id"])
    op.create_index("retries_event", "retries", ["event_id"])


def _make_triggers_on_sqlite() -> None:
    remember = _REMEMBER.format(now=_NOW["sqlite"])
    op.execute(
        "CREATE TRIGGER attempt_begins AFTER UPDATE OF attempt ON events"
        f" WHEN {_BEGINS} BEGIN {remember} END"
    )
    op.execute(f"CREATE TRIGGER event_removed AFTER DELETE ON events BEGIN {_FORGET} END")


def _make_triggers_on_postgresql() -> None:
    for name, body in (
        ("remember_attempt", _REMEMBER.format(now=_NOW["postgresql"])),
        ("forget_event", _FORGET),
    ):
        op.execute(
            f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql"
            f" AS $$ BEGIN {body} RETURN NULL; END $$"
        )
    op.execute(
        "CREATE TRIGGER attempt_begins AFTER UPDATE OF attempt ON events FOR EACH ROW"
        f" WHEN ({_BEGINS}) EXECUTE FUNCTION remember_attempt()"
    )
    op.execute(
        "CREATE TRIGGER event_removed AFTER DELETE ON events FOR EACH ROW"
        " EXECUTE FUNCTION forget_event()"
    )
