"""Adds the effects that callbacks recorded, and the policies of event types.

A policy uses the lane of an event, its slot while it runs, and the failures in a row of its type.
The term of a leader gets its length.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

#: The oldest revision whose code works with these tables.
works_with = "0004"

_PREFIX = "stripe_receiver_"

#: The tables whose rows a trigger removes with their event.
_OF_EVENT = ("attempts", "retries", f"{_PREFIX}effects")
_FORGET = "DELETE FROM {table} WHERE event_id = {row}.id"


def upgrade() -> None:
    """Add tables, columns and indexes.

    A replica of the release before takes events of all lanes.
    """
    _make_effects()
    _make_policies()
    op.add_column("leaders", sa.Column("seconds", sa.Double))


def _make_effects() -> None:
    op.create_table(
        f"{_PREFIX}effects",
        sa.Column("event_id", sa.Text, primary_key=True),
        sa.Column("purpose", sa.Text, primary_key=True),
        sa.Column("at", sa.Double, nullable=False),
    )
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


def _make_policies() -> None:
    op.create_table(
        f"{_PREFIX}type_failures",
        sa.Column("type", sa.Text, primary_key=True),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("reached_at", sa.Double),
        sa.Column("probe_at", sa.Double),
    )
    op.add_column("events", sa.Column("lane", sa.Text, nullable=False, server_default=""))
    op.add_column("events", sa.Column("slot", sa.Integer))
    op.execute(f"CREATE INDEX {_PREFIX}lane ON events (lane, due_at, id) WHERE state = 'pending'")
    # Unique: two running events of a type cannot have one slot. A row that a replica of the
    # release before settles leaves the index with its slot.
    op.execute(
        f"CREATE UNIQUE INDEX {_PREFIX}slot ON events (type, slot)"
        " WHERE state = 'running' AND slot IS NOT NULL"
    )
