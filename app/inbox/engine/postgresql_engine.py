"""The engine for PostgreSQL: any number of processes on any number of hosts share it.

A process has two pools. Writes use ``ConnectionPool``: under SQLAlchemy's pool a short statement
took nearly twice the processor time, and a refused connection failed the statement. Reads use
SQLAlchemy's pool: they are few, and their statement timeout is longer.

Two connections are separate. A listener has one, because it waits for notifications all the time.
A migration has one, which is closed at its end: the process may fork next.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from time import monotonic
from typing import Any

import psycopg
import sqlalchemy as sa

from app.errors import InboxUnavailable, Unstorable
from app.inbox.engine import deadline, postgresql
from app.inbox.engine.circuit_breaker import CircuitBreaker
from app.inbox.engine.errors import unavailable
from app.inbox.engine.interface import MIGRATION_TIMEOUT
from app.inbox.engine.keep import keep_for_ever
from app.text import in_one_line

#: Seconds between two checks of whether a listener is to stop.
LISTEN_SECONDS = 0.5

#: Seconds after which a listener probes its connection: a lost one is silent like an idle one.
PROBE_SECONDS = 10.0

#: A later try may succeed after a shortage of memory too. The result must not be lost to it.
_DRIVER_ERRORS = (sa.exc.DBAPIError, psycopg.Error, OSError, MemoryError)

#: A person dropped the tables or restored a database with older ones.
_TABLES_MISSING = (
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.InvalidSchemaName,
)

# Not synchronous_commit: each connection sets its own.
_UNSAFE_SETTINGS = sa.text("SELECT name FROM pg_settings WHERE name = 'fsync' AND setting = 'off'")


class PostgresqlEngine:
    """Implements ``interface.Engine``. The threads of a process share its connections."""

    single_host = False

    def __init__(self, url: str | sa.URL, schema: str | None = None) -> None:
        """Take the ``url`` of the database, and the ``schema`` of the statements' tables.

        None: the schema that ``search_path`` finds.
        """
        self._url = sa.make_url(url)
        self._schema = schema
        self.migrated = False
        self._reset()
        os.register_at_fork(after_in_child=self._leave_to_the_parent)

    def _reset(self) -> None:
        self._making = threading.Lock()
        self._pool: sa.Engine | None = None
        self._writer: postgresql.PostgresqlWriter | None = None
        self._breaker = CircuitBreaker()

    def _leave_to_the_parent(self) -> None:
        # Finalizing a connection of the parent's here would close it for the parent.
        keep_for_ever((self._pool, self._writer))
        self._reset()

    @property
    def address(self) -> str:
        """The URL without its query, because that can hold the password too."""
        return self._url.set(query={}).render_as_string(hide_password=True)

    def execute(
        self,
        statement: sa.Executable,
        parameters: dict[str, Any],
        *,
        durable: bool = False,  # noqa: ARG002 - every commit is
        slow_ok: bool = False,
    ) -> tuple[Any, ...] | None:
        """Run one writing statement as one transaction, and return its first row."""
        try:
            return self._get_writer().execute(statement, parameters, slow_ok=slow_ok)
        except psycopg.DataError as error:
            raise Unstorable(in_one_line(error)) from error
        except _DRIVER_ERRORS as error:
            raise self._unavailable(error) from error

    def read(
        self,
        statement: sa.Executable,
        parameters: dict[str, Any],
        seconds: float | None = None,
    ) -> list[sa.Row[Any]]:
        """Run one reading statement, once more if its connection is lost, and return all rows."""
        try:
            with self._breaker.watch(deadline.READ_SECONDS if seconds is None else seconds):
                try:
                    return self._rows(statement, parameters)
                except sa.exc.DBAPIError as error:
                    timed_out = isinstance(error.orig, deadline.TimedOut)
                    if timed_out or not error.connection_invalidated:
                        raise
                return self._rows(statement, parameters)
        except _DRIVER_ERRORS as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: BaseException) -> InboxUnavailable:
        """Return the error for callers. After one about missing tables they are migrated again."""
        if isinstance(getattr(error, "orig", error), _TABLES_MISSING):
            self.migrated = False
        return unavailable(error)

    def _rows(self, statement: sa.Executable, parameters: dict[str, Any]) -> list[sa.Row[Any]]:
        with self._get_pool().connect() as connection:
            return list(connection.execute(statement, parameters).all())

    def notify(self, statement: sa.Executable) -> None:
        """Run a ``statement`` that notifies the listeners of other processes."""
        self.execute(statement, {})

    def listen(self, channel: str, act: Callable[[], object], stopping: threading.Event) -> None:
        """Call ``act`` at each notification on the ``channel``, until ``stopping``.

        It has a connection of its own.
        """
        try:
            with self._breaker.watch(deadline.SECONDS):
                connection = self._detached_connection()
            with closing(connection):
                self._run_watched(connection, f"LISTEN {channel}")
                probed_at = monotonic()
                while not stopping.is_set():
                    for _ in connection.notifies(timeout=LISTEN_SECONDS, stop_after=1):
                        act()
                    if monotonic() > probed_at + PROBE_SECONDS:
                        self._run_watched(connection, "SELECT 1")
                        probed_at = monotonic()
        except _DRIVER_ERRORS as error:
            raise unavailable(error) from error

    def _detached_connection(self) -> Any:
        pooled = self._get_pool().raw_connection()
        connection = pooled.driver_connection
        pooled.detach()
        return connection

    def _run_watched(self, connection: Any, sql: str) -> None:
        with self._breaker.watch(deadline.SECONDS):
            connection.execute(sql)

    def unsafe_settings(self) -> tuple[str, ...]:
        """Return the settings of the server with which it can lose commits."""
        return tuple(row.name for row in self.read(_UNSAFE_SETTINGS, {}))

    @contextmanager
    def migration(self, *, fail_fast: bool = False) -> Iterator[sa.Connection]:
        """Hold one transaction, under an advisory lock that excludes other migrations."""
        pool = postgresql.make_sqlalchemy_engine(self._url, self._breaker, autocommit=False)
        try:
            with self._connect(pool, fail_fast=fail_fast) as connection, connection.begin():
                _lock_migrations(connection, fail_fast=fail_fast)
                yield connection
        except _DRIVER_ERRORS as error:
            raise unavailable(error) from error
        finally:
            pool.dispose()

    @contextmanager
    def snapshot(self) -> Iterator[sa.Connection]:
        """Hold one reading transaction that sees the state of one moment."""
        pool = postgresql.make_sqlalchemy_engine(self._url, self._breaker, autocommit=False)
        options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        if self._schema:
            options["schema_translate_map"] = {None: self._schema}
        try:
            with pool.execution_options(**options).connect() as connection, connection.begin():
                yield connection
        except _DRIVER_ERRORS as error:
            raise unavailable(error) from error
        finally:
            pool.dispose()

    def _connect(self, pool: sa.Engine, *, fail_fast: bool) -> sa.Connection:
        # A deadline makes ``Connector`` start a thread, and this process may fork next.
        with self._breaker.watch(deadline.SECONDS) if fail_fast else nullcontext():
            return pool.connect()

    def forbid_creation(self) -> None:
        """Do nothing: the service never creates a database of PostgreSQL's."""

    def examine(self) -> None:
        """Return None: the server keeps the files."""

    def close(self) -> None:
        """Close the connections of all threads. The next statement connects again."""
        with self._making:
            pool, writer = self._pool, self._writer
            self._pool = self._writer = None
        if writer is not None:
            writer.close()
        if pool is not None:
            pool.dispose()

    def _get_pool(self) -> sa.Engine:
        with self._making:
            if self._pool is None:
                pool = postgresql.make_sqlalchemy_engine(self._url, self._breaker, autocommit=True)
                if self._schema:
                    pool = pool.execution_options(schema_translate_map={None: self._schema})
                self._pool = pool
            return self._pool

    def _get_writer(self) -> postgresql.PostgresqlWriter:
        with self._making:
            if self._writer is None:
                self._writer = postgresql.PostgresqlWriter(self._url, self._breaker, self._schema)
            return self._writer


def _lock_migrations(connection: sa.Connection, *, fail_fast: bool) -> None:
    connection.exec_driver_sql(f"SET LOCAL statement_timeout = '{MIGRATION_TIMEOUT}s'")
    if not fail_fast:  # a delivery is answered 503 while another process migrates
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{MIGRATION_TIMEOUT}s'")
    connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('app.migrations'))")
    # A change of a table that waits for long would block all other users of the table.
    connection.exec_driver_sql("SET LOCAL lock_timeout = DEFAULT")
