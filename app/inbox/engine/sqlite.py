"""SQLite: which library is used, which version is safe, and how a connection is set up."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

from app.errors import InboxUnavailable

if TYPE_CHECKING:
    from app.inbox.engine.sqlite_file import Connection

try:  # The SQLite in this wheel has the WAL-reset bug fixed, Python's own mostly has not.
    from pysqlite3 import dbapi2 as driver
except ImportError:  # No wheel for this platform: journal_mode() then does without WAL.
    import sqlite3 as driver

__all__ = [
    "BUSY_TIMEOUT_MS",
    "DIALECT",
    "VERSION",
    "driver",
    "is_wal",
    "journal_mode",
    "make_sqlalchemy_engine",
    "prepare",
    "synchronous",
]

VERSION: tuple[int, ...] = driver.sqlite_version_info

#: SQLAlchemy's dialect for writing statements, which go to the driver without SQLAlchemy.
DIALECT: sa.Dialect = SQLiteDialect_pysqlite(dbapi=driver)

#: Milliseconds that SQLite waits for a tool that writes without taking the file lock.
BUSY_TIMEOUT_MS = 4_000

#: Pages in the log at which a commit runs a checkpoint itself: 32 MB. A fallback in case the
#: checkpoint thread is too slow.
MAX_LOG_PAGES = 8_000

#: Bytes that the log file keeps when SQLite reuses it. A long read makes it longer, because
#: SQLite overwrites nothing that a reader may need.
KEPT_LOG_BYTES = 64 * 2**20


@cache
def journal_mode(version: tuple[int, ...]) -> str:
    """Return the journal mode that is safe in this ``version`` of SQLite.

    Before 3.51.3 a checkpoint in WAL mode can race with a commit and lose it
    (https://sqlite.org/wal.html#walresetbug). 3.50.7 and 3.44.6 have the correction too.
    TRUNCATE and not DELETE: the last commit of DELETE may roll back when power is lost.
    """
    backports = ((3, 50, 7), (3, 51)), ((3, 44, 6), (3, 45))
    fixed = version >= (3, 51, 3) or any(low <= version < high for low, high in backports)
    return "WAL" if fixed else "TRUNCATE"


def is_wal() -> bool:
    """Return True if the inbox uses WAL mode with this SQLite."""
    return journal_mode(VERSION) == "WAL"


def synchronous(*, durable: bool = False) -> str:
    """Return SQLite's ``synchronous`` for a commit.

    NORMAL is enough after a callback that succeeded: the commit survives the death of every
    process, and a crash of the machine can at worst repeat the event.
    """
    return "NORMAL" if is_wal() and not durable else "FULL"


def prepare(connection: Any) -> None:
    """Set how a new ``connection`` waits and writes."""
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    connection.execute(f"PRAGMA journal_mode = {journal_mode(VERSION)}")
    connection.execute(f"PRAGMA synchronous = {synchronous()}")
    connection.execute(f"PRAGMA wal_autocheckpoint = {MAX_LOG_PAGES}")
    connection.execute(f"PRAGMA journal_size_limit = {KEPT_LOG_BYTES}")


def make_sqlalchemy_engine(
    url: sa.URL, connect: Callable[[], Connection], *, autocommit: bool
) -> sa.Engine:
    """Return SQLAlchemy's engine with connections made by ``connect``.

    It commits every statement, or begins each transaction with the right to write.
    """
    # hide_parameters: an error's text goes to the log, and a parameter is the body.
    pool = sa.create_engine(url, module=driver, hide_parameters=True)

    @sa.event.listens_for(pool, "do_connect")
    def _connect(*_arguments: object) -> Connection:
        return connect()

    @sa.event.listens_for(pool, "checkout")
    def _check_out(connection: Connection, _record: object, _proxy: object) -> None:
        try:
            connection.file.verify(connection)
        except InboxUnavailable as error:  # all of that age are replaced by new ones
            raise sa.exc.InvalidatePoolError(error.reason) from error

    if not autocommit:

        @sa.event.listens_for(pool, "begin")
        def _begin(connection: sa.Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return pool
