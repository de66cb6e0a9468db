"""Makes the tables of a new inbox with the statements that Alembic made for the first one.

Alembic builds them anew for each inbox. That takes ten times as long as to run them.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from app.inbox.sql.revisions import versions

_upgrade = command.upgrade

#: The statements by dialect, each with its parameters.
_made: dict[str, list[tuple[str, Any]]] = {}


def upgrade(config: Config, revision: str) -> None:
    """Do what ``alembic.command.upgrade`` does. A process asks Alembic for the first new inbox."""
    connection: sa.Connection = config.attributes["connection"]
    is_new = connection.scalar(sa.select(sa.func.count()).select_from(versions)) == 0
    if revision != "head" or not is_new:
        _upgrade(config, revision)
    elif (statements := _made.get(connection.dialect.name)) is None:
        _made[connection.dialect.name] = _record(connection, config)
    else:
        for statement, parameters in statements:
            connection.exec_driver_sql(statement, parameters)


def _record(connection: sa.Connection, config: Config) -> list[tuple[str, Any]]:
    statements: list[tuple[str, Any]] = []

    def note(_c: Any, _cursor: Any, statement: str, parameters: Any, *_more: Any) -> None:
        statements.append((statement, parameters or None))

    sa.event.listen(connection, "before_cursor_execute", note)
    try:
        _upgrade(config, "head")
    finally:
        sa.event.remove(connection, "before_cursor_execute", note)
    return statements
