"""Adds pairs of events: who holds a pair, and which snapshot event a thin event is about."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

#: The oldest revision whose code works with these tables.
works_with = "0004"

_PREFIX = "stripe_receiver_"

# Like 0007, and not shared with it: what a migration does must not change with another one.
#: The tables whose rows a trigger removes with their event.
_OF_EVENT = (
    *("attempts", "retries", f"{_PREFIX}effects"),
    *(f"{_PREFIX}pair_holds", f"{_PREFIX}thin_events"),
)
_FORGET = "DELETE FROM {table} WHERE event_id = {row}.id"


def upgrade() -> None:
    """Add two tables, whose rows are removed with their event.

    A replica of the release before does not know pairs: it runs both events of one.
    """
    op.create_table(
        f"{_PREFIX}pair_holds",
        sa.Column("pair_key", sa.Text, primary_key=True),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("token", sa.Text, nullable=False),
    )
    op.create_index(f"{_PREFIX}pair_holds_event", f"{_PREFIX}pair_holds", ["event_id"])
    op.create_table(
        f"{_PREFIX}thin_events",
        sa.Column("event_id", sa.Text, primary_key=True),
        sa.Column("snapshot_event", sa.Text, nullable=False),
    )
    op.create_index(f"{_PREFIX}thin_events_snapshot", f"{_PREFIX}thin_events", ["snapshot_event"])
    _forget_with_events()


def _forget_with_events() -> None:
    if op.get_bind().dialect.name == "sqlite":
        forget = " ".join(f"{_FORGET.format(table=each, row='OLD')};" for each in _OF_EVENT)
        op.execute("DROP TRIGGER event_removed")
        op.execute(f"CREATE TRIGGER event_removed AFTER DELETE ON events BEGIN {forget} END")
        return
    # The statements name the schema of the trigger's table, as in 0005.
    deletes = [_FORGET.format(table=f"%I.{each}", row="$1") for each in _OF_EVENT]
    body = " ".join(f"EXECUTE format('{each}', TG_TABLE_SCHEMA) USING OLD;" for each in deletes)
    op.execute(
        "CREATE OR REPLACE FUNCTION forget_event() RETURNS trigger LANGUAGE plpgsql"
        f" AS $$ BEGIN {body} RETURN NULL; END $$"
    )
