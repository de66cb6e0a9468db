"""SQLite: which version is safe, how it is opened, and how many threads write to it.

SQLite has one writer at a time. So a process has one connection for writing, and whoever's turn
it is writes for all that wait: one lock, one transaction and one commit for many statements. Alone
it is one statement that commits itself.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from typing import Any

import sqlalchemy as sa

from app.errors import Unavailable
from app.inbox.lock import FileLock

try:  # The SQLite in this wheel has the WAL-reset bug fixed, Python's own mostly has not.
    from pysqlite3 import dbapi2 as driver
except ImportError:  # No wheel for this platform: journal_mode() then does without WAL.
    import sqlite3 as driver

__all__ = ["VERSION", "SqliteWriter", "driver", "journal_mode", "make_engine"]

VERSION: tuple[int, ...] = driver.sqlite_version_info

#: The second line behind the file lock, for tools that write without it.
BUSY_TIMEOUT_MS = 4_000

#: Statements that are written in one transaction at most, so that no process waits for long.
MOST_AT_ONCE = 64

#: Seconds that a statement waits for its turn before the delivery is answered 503.
TURN_TIMEOUT = 5.0


def journal_mode(version: tuple[int, ...]) -> str:
    """Return the journal mode that is safe in this ``version`` of SQLite.

    Before 3.51.3 a checkpoint in WAL mode can race with a commit and lose it
    (https://sqlite.org/wal.html#walresetbug); 3.50.7 and 3.44.6 have the correction too.
    TRUNCATE and not DELETE: the last commit of DELETE may roll back when power is lost.
    """
    backports = ((3, 50, 7), (3, 51)), ((3, 44, 6), (3, 45))
    fixed = version >= (3, 51, 3) or any(low <= version < high for low, high in backports)
    return "WAL" if fixed else "TRUNCATE"


def synchronous() -> str:
    """Return how far a commit goes that nobody asked to be durable.

    After a callback that succeeded NORMAL keeps the promise: the commit survives the death of
    every process, and a crash of the machine can at worst repeat the event.
    """
    return "NORMAL" if journal_mode(VERSION) == "WAL" else "FULL"


def make_engine(url: sa.URL, *, autocommit: bool) -> sa.Engine:
    """Return an engine for a file, which commits every statement or begins by hand."""
    mode = journal_mode(VERSION)
    # hide_parameters: an error's text goes to the log, and a parameter is the body.
    engine = sa.create_engine(url, module=driver, hide_parameters=True)

    @sa.event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver would begin late, and not for DDL
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        connection.execute(f"PRAGMA journal_mode = {mode}")
        connection.execute(f"PRAGMA synchronous = {synchronous()}")

    if not autocommit:

        @sa.event.listens_for(engine, "begin")
        def _on_begin(connection: sa.Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


class _Job:
    """One statement that waits for its turn, and then what came of it."""

    __slots__ = ("done", "durable", "error", "parameters", "row", "sql")

    def __init__(self, sql: str, parameters: tuple[Any, ...], *, durable: bool) -> None:
        self.durable = durable
        self.sql = sql
        self.parameters = parameters
        self.row: tuple[Any, ...] | None = None
        self.error: BaseException | None = None
        self.done = False


class SqliteWriter:
    """Writes for all threads of this process, one transaction at a time."""

    def __init__(self, engine: sa.Engine, lock: FileLock) -> None:
        """Take the ``engine`` to connect with, and the ``lock`` among processes."""
        self._engine = engine
        self._lock = lock
        self._turn = threading.Lock()
        self._waiting: deque[_Job] = deque()
        self._connection: sa.PoolProxiedConnection | None = None
        self._statements: dict[sa.Executable, tuple[str, list[str]]] = {}

    def execute(
        self, statement: sa.Executable, parameters: dict[str, Any], *, durable: bool
    ) -> tuple[Any, ...] | None:
        """Run one statement, commit it, and return its first row.

        If ``durable``, the commit is on the disk before this returns. Raises the driver's
        error, or ``Unavailable`` when the turn does not come.
        """
        job = _Job(*self._prepare(statement, parameters), durable=durable)
        self._waiting.append(job)
        self._wait_for_turn(job)
        if job.error is not None:
            raise job.error
        return job.row

    def _wait_for_turn(self, job: _Job) -> None:
        if not self._turn.acquire(timeout=TURN_TIMEOUT):
            if not job.done:
                with contextlib.suppress(ValueError):  # being written: its claim ends by itself
                    self._waiting.remove(job)
                raise Unavailable("the inbox is busy", reason="inbox_locked", retry_after=5)
            return
        try:
            while not job.done:
                self._write_what_waits()
        finally:
            self._turn.release()

    def _prepare(
        self, statement: sa.Executable, parameters: dict[str, Any]
    ) -> tuple[str, tuple[Any, ...]]:
        compiled = self._statements.get(statement)
        if compiled is None:
            compiled = self._statements[statement] = _compile(statement, self._engine)
        sql, names = compiled
        return sql, tuple([parameters[name] for name in names])

    def _write_what_waits(self) -> None:
        jobs = [self._waiting.popleft() for _ in range(min(len(self._waiting), MOST_AT_ONCE))]
        try:
            with self._lock:
                self._write_together(jobs)
        except BaseException as error:  # noqa: BLE001 - each of the threads gets it raised
            _fail([job for job in jobs if not job.done], error)
        if any(job.error is not None for job in jobs):
            # A file that could not be written when it was opened stays so for this connection.
            self._disconnect()

    def _write_together(self, jobs: list[_Job]) -> None:
        """Write all in one transaction, or each alone when one of them cannot be written."""
        connection = self._connect()
        if any(job.durable for job in jobs):
            connection.execute("PRAGMA synchronous = FULL")
            self._write_in_one_transaction(connection, jobs)
            connection.execute(f"PRAGMA synchronous = {synchronous()}")
        else:
            self._write_in_one_transaction(connection, jobs)

    def _write_in_one_transaction(self, connection: Any, jobs: list[_Job]) -> None:
        if len(jobs) > 1:
            connection.execute("BEGIN IMMEDIATE")  # when this fails, no single one would succeed
            try:
                rows = [_first_row(connection, job) for job in jobs]
                connection.execute("COMMIT")
            except driver.Error:
                connection.rollback()
            else:
                for job, row in zip(jobs, rows, strict=True):
                    job.row, job.done = row, True
                return
        for job in jobs:
            _write_alone(connection, job)

    def _connect(self) -> Any:
        if self._connection is None:
            self._connection = self._engine.raw_connection()
        return self._connection.driver_connection

    def close(self) -> None:
        """Close the connection, when nobody uses it. The next statement connects again."""
        with self._turn:
            self._disconnect()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.invalidate()


def _compile(statement: Any, engine: sa.Engine) -> tuple[str, list[str]]:
    """Return a statement's SQL, and the names of its parameters in their order."""
    compiled = statement.compile(engine)
    return compiled.string, compiled.positiontup


def _fail(jobs: list[_Job], error: BaseException) -> None:
    for job in jobs:
        job.error, job.done = error, True


def _write_alone(connection: Any, job: _Job) -> None:
    try:
        job.row = _first_row(connection, job)
    except driver.Error as error:
        job.error = error
    job.done = True


def _first_row(connection: Any, job: _Job) -> tuple[Any, ...] | None:
    # All rows are fetched, because a statement that is not at its end cannot be committed.
    rows: list[tuple[Any, ...]] = connection.execute(job.sql, job.parameters).fetchall()
    return rows[0] if rows else None
