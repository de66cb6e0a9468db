"""Copies the tables of a new SQLite file from the first one that Alembic made in this process.

Alembic builds the statements of all migrations anew for each inbox. On PostgreSQL a test gets a
copy of a database too.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from app.inbox.engine import sqlite
from app.inbox.sql.revisions import versions

_upgrade = command.upgrade

#: The tables and indexes of a file, but for those that SQLite makes itself.
_OBJECTS = "SELECT name FROM sqlite_schema WHERE sql IS NOT NULL"

#: The copy, in memory, once there is one.
_made: list[Any] = []


def upgrade(config: Config, revision: str) -> None:
    """Do what ``alembic.command.upgrade`` does. A process asks Alembic for the first new file.

    The copy is of a file in WAL mode, so others get their tables from Alembic.
    """
    connection: sa.Connection = config.attributes["connection"]
    file: Any = connection.connection.driver_connection
    is_file = connection.dialect.name == "sqlite" and sqlite.is_wal()
    if revision != "head" or not is_file or not _is_new(file):
        _upgrade(config, revision)
        return
    if not _made:
        _upgrade(config, revision)
    # SQLite copies no file that its connection is writing to.
    file.execute("COMMIT")
    if _made:
        _made[0].backup(file)
    else:
        _made.append(sqlite.driver.connect(":memory:", check_same_thread=False))
        file.backup(_made[0])
    file.execute("BEGIN IMMEDIATE")


def _is_new(file: Any) -> bool:
    """Return whether a file has only the table of revisions, which is empty."""
    objects = [name for (name,) in file.execute(_OBJECTS)]
    rows = f"SELECT count(*) FROM {versions.name}"  # noqa: S608 - a name of ours
    return objects == [versions.name] and file.execute(rows).fetchone() == (0,)
