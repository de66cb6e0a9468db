"""Makes the tables of a new SQLite file as Alembic left them in the first one.

Alembic builds the statements of all migrations anew for each inbox, which takes five times as long
as to run them. Half of them change what an earlier one made. On PostgreSQL a test gets a copy of a
database.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from app.inbox.sql.revisions import versions

_upgrade = command.upgrade

#: What SQLite keeps of each table, index and trigger, in the order of their making.
_OBJECTS = "SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY rowid"

#: The statements, each with its parameters.
_made: list[tuple[str, Any]] = []


def upgrade(config: Config, revision: str) -> None:
    """Do what ``alembic.command.upgrade`` does. A process asks Alembic for the first new file."""
    connection: sa.Connection = config.attributes["connection"]
    is_new = connection.scalar(sa.select(sa.func.count()).select_from(versions)) == 0
    if revision != "head" or not is_new or connection.dialect.name != "sqlite":
        _upgrade(config, revision)
        return
    # Without SQLAlchemy, which takes as long for a statement as SQLite.
    driver: Any = connection.connection.driver_connection
    if not _made:
        before = set(driver.execute(_OBJECTS))
        _upgrade(config, "head")
        _made.extend(_statements(driver, before))
        return
    for statement, parameters in _made:
        driver.execute(statement, parameters)


def _statements(driver: Any, before: set[tuple[str, str, str]]) -> list[tuple[str, Any]]:
    """Return the statements that make all objects but those from ``before``, and all rows."""
    objects = list(driver.execute(_OBJECTS))
    made: list[tuple[str, Any]] = [(each[2], ()) for each in objects if each not in before]
    for table in [name for kind, name, _ in objects if kind == "table"]:
        for row in driver.execute(f"SELECT * FROM {table}"):  # noqa: S608 - a name of ours
            places = ", ".join("?" * len(row))
            made.append((f"INSERT INTO {table} VALUES ({places})", row))  # noqa: S608 - as above
    return made
