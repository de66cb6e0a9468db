"""Lets the triggers on PostgreSQL write into the schema of their table.

Before, they wrote into the schema that ``search_path`` found. A pooler in transaction mode keeps no
``search_path``, and with ``DATABASE_SCHEMA`` it can lead elsewhere. The name of the schema is not
written into the functions, so that tables and functions can move to another schema.
"""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

#: The oldest revision whose code works with these tables.
works_with = "0004"

_NOW = "EXTRACT(EPOCH FROM statement_timestamp())::double precision"
_CRASHED = "$1.state = ''running''"
_REMEMBER = f"""
    EXECUTE format('
        INSERT INTO %1$I.attempts
            (event_id, attempt, claimed_by, started_at, ended_at, outcome, reason, traceback)
        SELECT $1.id, $1.attempt, $1.claimed_by, $1.claimed_at,
            CASE WHEN {_CRASHED} THEN {_NOW} ELSE COALESCE($1.settled_at, {_NOW}) END,
            CASE WHEN {_CRASHED} THEN ''crashed'' ELSE COALESCE($1.outcome, ''unknown'') END,
            CASE WHEN {_CRASHED} THEN NULL ELSE $1.reason END,
            CASE WHEN {_CRASHED} THEN NULL ELSE $1.traceback END
        WHERE NOT EXISTS
            (SELECT 1 FROM %1$I.attempts WHERE event_id = $1.id AND attempt = $1.attempt)',
        TG_TABLE_SCHEMA) USING OLD;
"""  # noqa: S608 - all of it is written here
_FORGET = """
    EXECUTE format('DELETE FROM %I.attempts WHERE event_id = $1.id', TG_TABLE_SCHEMA) USING OLD;
    EXECUTE format('DELETE FROM %I.retries WHERE event_id = $1.id', TG_TABLE_SCHEMA) USING OLD;
"""


def upgrade() -> None:
    """Replace the functions of the triggers. SQLite's triggers need no change."""
    if op.get_bind().dialect.name == "postgresql":
        for name, body in (("remember_attempt", _REMEMBER), ("forget_event", _FORGET)):
            op.execute(
                f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql"
                f" AS $$ BEGIN {body} RETURN NULL; END $$"
            )
