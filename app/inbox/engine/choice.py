"""The choice between the two engines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from app.inbox.batch_form import BatchForm
from app.inbox.engine.interface import Engine
from app.inbox.engine.sqlite_engine import SqliteEngine


def engine_for(
    url: str,
    batch_forms: Mapping[Any, BatchForm],
    *,
    schema: str | None = None,
    listen_url: str | None = None,
) -> Engine:
    """Return the engine for a ``url``: SQLite or PostgreSQL.

    ``batch_forms`` holds the statements that can run as a batch. ``schema`` is PostgreSQL's, or
    None if a migration has to find it by ``search_path``. A PostgreSQL engine waits for
    notifications at the ``listen_url``, by default at the ``url``.
    """
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return SqliteEngine(parsed, batch_forms)
    from app.inbox.engine.postgresql_engine import PostgresqlEngine  # noqa: PLC0415 - it loads psycopg

    return PostgresqlEngine(parsed, schema, listen_url)
