"""Adds ``source``, watermarks, leaders, and the slots of the rate limit."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column and the tables."""
    op.add_column("events", sa.Column("source", sa.Text, nullable=False, server_default="delivery"))
    op.create_table(
        "watermarks",
        sa.Column("livemode", sa.Boolean, primary_key=True),
        sa.Column("context", sa.Text, primary_key=True),
        sa.Column("type", sa.Text, primary_key=True),
        sa.Column("reached", sa.Double, nullable=False),
    )
    op.create_table(
        "leaders",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("until", sa.Double, nullable=False),
    )
    op.create_table(
        "budgets",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("free_at", sa.Double, nullable=False),
        sa.Column("slow_until", sa.Double, nullable=False),
    )
