"""Adds the length of a lease, and for how many seconds it was seen unrenewed.

A replica of the version before writes none of these columns. A changed ``lease_until`` shows that
the lease was renewed.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns."""
    op.add_column("events", sa.Column("lease_seconds", sa.Double))
    op.add_column("events", sa.Column("suspected_lease", sa.Double))
    column = sa.Column("suspected_seconds", sa.Double, nullable=False, server_default="0")
    op.add_column("events", column)
