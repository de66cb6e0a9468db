"""Sets when autovacuum analyses the events on PostgreSQL.

By default it does so after a tenth of the rows has changed. In an inbox with 200,000 done events
the statistics then miss new due ones: a claim among 20,000 due events took 4 ms, and at worst 25,
instead of 0.2 ms.
"""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

#: The oldest revision whose code works with these tables.
works_with = "0004"

#: Changed rows after which autovacuum analyses the events. By default it looks once a minute. It
#: reads a sample, whose size does not depend on the table's.
_CHANGES = 500


def upgrade() -> None:
    """Set two storage parameters of ``events``. The table stays readable and writable."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "ALTER TABLE events SET (autovacuum_analyze_scale_factor = 0,"
            f" autovacuum_analyze_threshold = {_CHANGES})"
        )
