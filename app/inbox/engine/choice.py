"""The choice between the two engines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from app.inbox.batch_form import BatchForm
from app.inbox.engine.interface import Engine


def engine_for(url: str, batch_forms: Mapping[Any, BatchForm]) -> Engine:
    """Return the engine for a ``url``: SQLite or PostgreSQL.

    ``batch_forms`` holds the statements that can run as a batch.
    """
    parsed = sa.make_url(url)
    # Imported here, because psycopg alone is a tenth of the time that a start takes.
    if parsed.get_backend_name() == "sqlite":
        from app.inbox.engine.sqlite_engine import SqliteEngine  # noqa: PLC0415

        return SqliteEngine(parsed, batch_forms)
    from app.inbox.engine.postgresql_engine import PostgresqlEngine  # noqa: PLC0415

    return PostgresqlEngine(parsed)
