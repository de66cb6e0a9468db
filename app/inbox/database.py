"""How the inbox reaches its database: SQLite in a file, or PostgreSQL."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from app.errors import Unavailable
from app.inbox.lock import FileLock

try:  # The SQLite in this wheel has the WAL-reset bug fixed, Python's own mostly has not.
    from pysqlite3 import dbapi2 as sqlite
except ImportError:  # No wheel for this platform: journal_mode() then does without WAL.
    import sqlite3 as sqlite

SQLITE_VERSION: tuple[int, ...] = sqlite.sqlite_version_info

Parameters = dict[str, Any]
Row = sa.Row[Any]

#: The second line behind the file lock, for tools that write without it.
BUSY_TIMEOUT_MS = 10_000

#: Seconds to connect to PostgreSQL: a delivery is answered 503 rather than kept waiting.
CONNECT_TIMEOUT = 2

#: Milliseconds that one statement may take, and that sent data may stay unconfirmed.
STATEMENT_TIMEOUT_MS = 5_000

#: Seconds that a migration waits for another process's.
MIGRATION_TIMEOUT = 60.0


def journal_mode(version: tuple[int, ...]) -> str:
    """Return the journal mode that is safe in this ``version`` of SQLite.

    Before 3.51.3 a checkpoint in WAL mode can race with a commit and lose it
    (https://sqlite.org/wal.html#walresetbug); 3.50.7 and 3.44.6 have the correction too.
    TRUNCATE and not DELETE: the last commit of DELETE may roll back when power is lost.
    """
    backports = ((3, 50, 7), (3, 51)), ((3, 44, 6), (3, 45))
    fixed = version >= (3, 51, 3) or any(low <= version < high for low, high in backports)
    return "WAL" if fixed else "TRUNCATE"


class Database:
    """One database, reached by one connection in each thread that uses it.

    The threads of a server are few and live long. A connection of their own saves the pool's
    work at every statement, which would cost as much as the statement itself.
    """

    def __init__(self, url: str) -> None:
        """Take the ``url`` of the database. Nothing connects before the first statement."""
        self._url = sa.make_url(url)
        self.file = self._sqlite_file()
        self._lock = FileLock(Path(f"{self.file}.lock")) if self.file else None
        self._begin()
        os.register_at_fork(after_in_child=self._leave_to_the_parent)

    def _leave_to_the_parent(self) -> None:
        # A connection cannot be shared across a fork. The parent's are kept from being
        # finalized here: closing them would end them for the parent.
        self._of_the_parent = (self._threads, self._engine)
        self._begin()

    def _begin(self) -> None:
        self._threads = threading.local()
        self._held: weakref.WeakSet[_Held] = weakref.WeakSet()
        self._engine: sa.Engine | None = None
        self._making = threading.Lock()

    def _sqlite_file(self) -> Path | None:
        if self._url.get_backend_name() != "sqlite":
            return None
        return Path(self._url.database or "").absolute()

    def execute(self, statement: sa.Executable, parameters: Parameters) -> Row | None:
        """Run one writing statement as one transaction, and return its first row.

        The commit is durable when this returns. A statement whose connection turns out to be
        lost is run once more on a new one, so it has to bear being run twice. Raises
        ``Unavailable`` when the database cannot be reached or written.
        """
        try:
            return self._execute_once(statement, parameters)
        except sa.exc.DBAPIError as error:
            self._drop_connection()
            if not error.connection_invalidated:
                raise _unavailable(error) from error
        try:
            return self._execute_once(statement, parameters)
        except sa.exc.DBAPIError as error:
            self._drop_connection()
            raise _unavailable(error) from error

    def _execute_once(self, statement: sa.Executable, parameters: Parameters) -> Row | None:
        connection = self._connection()
        with self._lock.held() if self._lock else nullcontext():
            return connection.execute(statement, parameters).first()

    def read(self, statement: sa.Executable, parameters: Parameters) -> list[Row]:
        """Run one reading statement and return all rows. Raises ``Unavailable``."""
        try:
            return list(self._connection().execute(statement, parameters).all())
        except sa.exc.DBAPIError as error:
            self._drop_connection()
            raise _unavailable(error) from error

    @contextmanager
    def migration(self) -> Iterator[sa.Connection]:
        """Hold one transaction that no other migration can run beside.

        Its connection is closed afterwards, so that a process can migrate and then fork.
        Raises ``Unavailable`` when the database cannot be reached, or not within a minute.
        """
        if self.file:
            _make_folder(self.file.parent)
        engine = self._make_engine(autocommit=False)
        try:
            turn = self._lock.held(MIGRATION_TIMEOUT) if self._lock else nullcontext()
            with turn, engine.begin() as connection:
                self._take_advisory_lock(connection)
                yield connection
        except sa.exc.DBAPIError as error:
            raise _unavailable(error) from error
        finally:
            engine.dispose()

    def _take_advisory_lock(self, connection: sa.Connection) -> None:
        if not self.file:
            timeout = f"SET LOCAL statement_timeout = '{MIGRATION_TIMEOUT:.0f}s'"
            connection.exec_driver_sql(timeout)
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('app.migrations'))")

    def close(self) -> None:
        """Close the connections of all threads. None of them may be in use."""
        with self._making:
            for held in list(self._held):
                held.connection.close()
            self._threads = threading.local()
            if self._engine is not None:
                self._engine.dispose()
                self._engine = None

    def _connection(self) -> sa.Connection:
        held: _Held | None = getattr(self._threads, "held", None)
        if held is None:
            held = self._threads.held = _Held(self._get_engine().connect())
            self._held.add(held)
        return held.connection

    def _drop_connection(self) -> None:
        held: _Held | None = getattr(self._threads, "held", None)
        self._threads.held = None
        if held is not None:
            held.connection.invalidate()

    def _get_engine(self) -> sa.Engine:
        with self._making:
            if self._engine is None:
                self._engine = self._make_engine(autocommit=True)
            return self._engine

    def _make_engine(self, *, autocommit: bool) -> sa.Engine:
        # hide_parameters: an error's text goes to the log, and a parameter is the body.
        options: dict[str, Any] = {"hide_parameters": True, "max_overflow": -1}
        if autocommit:
            options["isolation_level"] = "AUTOCOMMIT"
        if self.file:
            engine = sa.create_engine(self._url, module=sqlite, **options)
            _configure_sqlite(engine, autocommit=autocommit)
            return engine
        return sa.create_engine(self._url, connect_args=_postgresql_arguments(), **options)


class _Held:
    """The connection of one thread, given back to the pool when the thread has ended."""

    def __init__(self, connection: sa.Connection) -> None:
        self.connection = connection

    def __del__(self) -> None:
        self.connection.close()


def _configure_sqlite(engine: sa.Engine, *, autocommit: bool) -> None:
    mode = journal_mode(SQLITE_VERSION)
    # In inline mode a 2xx is only given after the callback ran, so NORMAL keeps the promise:
    # a commit survives the death of every process, and a crash of the machine repeats.
    synchronous = "NORMAL" if mode == "WAL" else "FULL"

    @sa.event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _record: Any) -> None:
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        connection.execute(f"PRAGMA journal_mode = {mode}")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        if not autocommit:
            connection.isolation_level = None  # the driver would begin late, and not for DDL

    if not autocommit:

        @sa.event.listens_for(engine, "begin")
        def _on_begin(connection: sa.Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")


def _postgresql_arguments() -> dict[str, Any]:
    return {
        "connect_timeout": CONNECT_TIMEOUT,
        "tcp_user_timeout": STATEMENT_TIMEOUT_MS,
        "options": f"-c statement_timeout={STATEMENT_TIMEOUT_MS}",
        "application_name": "stripe-events",
    }


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unreachable(f"{type(error).__name__}: {error.strerror}: {folder}") from error


def _unavailable(error: sa.exc.DBAPIError) -> Unavailable:
    # The first line only: PostgreSQL's further lines can quote the row, and so the body.
    lines = str(error.orig).strip().splitlines() or [""]
    return _unreachable(f"{type(error.orig).__name__}: {lines[0]}")


def _unreachable(reason: str) -> Unavailable:
    return Unavailable("the inbox is not available", reason=reason, retry_after=5)
