"""What the rescue of an event needs: how long its lease is, and how long it stayed unrenewed.

A replica of the version before writes none of the columns. It renews ``lease_until`` as before, and
that is what tells a renewed lease from the one that is suspected.
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
    for name, default in (("lease_seconds", "30"), ("suspected_seconds", "0")):
        column = sa.Column(name, sa.Double, nullable=False, server_default=default)
        op.add_column("events", column)
    op.add_column("events", sa.Column("suspected_lease", sa.Double))
