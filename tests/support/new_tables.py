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

#: All objects of a file but SQLite's automatic indexes.
_OBJECTS = "SELECT name FROM sqlite_schema WHERE sql IS NOT NULL"

#: The copy, in memory, once there is one.
_made: list[Any] = []


def upgrade(config: Config, revision: str) -> None:
    """Do what ``alembic.command.upgrade`` does. A process asks Alembic for the first new file.

    The copy has the header of a file in WAL mode. Without WAL mode, Alembic makes all tables.
    """
    connection: sa.Connection = config.attributes["connection"]
    file: Any = connection.connection.driver_connection
    can_copy = connection.dialect.name == "sqlite" and sqlite.is_wal()
    if revision != "head" or not can_copy or not _is_new(file):
        _upgrade(config, revision)
        return
    made = _made[0] if _made else None
    if made is None:
        _upgrade(config, revision)
    # SQLite copies no file that its connection is writing to.
    file.execute("COMMIT")
    if made is None:
        copy = sqlite.driver.connect(":memory:", check_same_thread=False)
        file.backup(copy)
        _made.append(copy)  # only now: another thread may take it at once
    else:
        made.backup(file)
    file.execute("BEGIN IMMEDIATE")


def _is_new(file: Any) -> bool:
    """Return whether a file has only the table of revisions, which is empty."""
    objects = [name for (name,) in file.execute(_OBJECTS)]
    rows = f"SELECT count(*) FROM {versions.name}"  # noqa: S608 - a name of ours
    return objects == [versions.name] and file.execute(rows).fetchone() == (0,)
