"""Adds the lane of an event, its slot while it runs, and the failures in a row by event type."""

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


def upgrade() -> None:
    """Add a table, columns and indexes.

    A replica of the release before takes events of all lanes.
    """
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
