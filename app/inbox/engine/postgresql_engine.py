"""The engine for PostgreSQL: any number of processes on any number of hosts share it.

The threads of a process share the connections of a ``ConnectionPool``. Two connections are
separate. A listener has one, because it waits for notifications all the time. A migration has one,
which is closed at its end: the process may fork next.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import psycopg
import sqlalchemy as sa

from app.errors import InboxUnavailable, StartError, Unstorable
from app.inbox.engine import deadline, limits, postgresql
from app.inbox.engine import postgresql_session as session
from app.inbox.engine.circuit_breaker import CircuitBreaker
from app.inbox.engine.connection_pool import repeat_refused
from app.inbox.engine.errors import unavailable
from app.inbox.engine.interface import MIGRATION_TIMEOUT
from app.inbox.engine.keep import keep_for_ever
from app.inbox.engine.postgresql_listener import PostgresqlListener
from app.inbox.engine.postgresql_unlimited import UnlimitedConnections
from app.text import in_one_line

#: A later try may succeed after a shortage of memory too. The result must not be lost to it.
_DRIVER_ERRORS = (sa.exc.DBAPIError, psycopg.Error, OSError, MemoryError)

#: A person dropped the tables or restored a database with older ones.
_TABLES_MISSING = (
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.InvalidSchemaName,
)

_NOTIFY = sa.text("SELECT pg_notify(:channel, '')")

_LOCK_SCHEMA = sa.text("SELECT pg_advisory_xact_lock(hashtext(:key))")

#: Encodings of a database that store every character. SQL_ASCII stores bytes unchanged.
ENCODINGS = {"UTF8", "SQL_ASCII"}

_ENCODING = sa.text("SELECT current_setting('server_encoding'), to_regclass(:table)::text")

# Not synchronous_commit: each connection sets its own.
_UNSAFE_SETTINGS = sa.text("SELECT name FROM pg_settings WHERE name = 'fsync' AND setting = 'off'")


class PostgresqlEngine:
    """Implements ``interface.Engine``. The threads of a process share its connections."""

    single_host = False

    def __init__(
        self, url: str | sa.URL, schema: str | None = None, listen_url: str | None = None
    ) -> None:
        """Take the ``url`` of the database, and a direct one to listen at if that is another.

        The tables are in the ``schema``. If it is None, a migration has to find them.
        """
        self._url = sa.make_url(url)
        self._schema = self._set_schema = schema
        self._listen_url = sa.make_url(listen_url) if listen_url else None
        self.migrated = False
        self.unlimited = UnlimitedConnections(self._url)
        self._reset()
        os.register_at_fork(after_in_child=self._leave_to_the_parent)

    def _reset(self) -> None:
        self._breaker = CircuitBreaker()
        self._statements = postgresql.PostgresqlStatements(self._url, self._breaker, self._schema)

    @property
    def schema(self) -> str | None:
        """The schema that qualifies the tables of every statement."""
        return self._schema

    @schema.setter
    def schema(self, schema: str | None) -> None:
        if schema != self._schema:
            self._schema = schema
            self._statements.use_schema(schema)

    def _leave_to_the_parent(self) -> None:
        # Finalizing a connection of the parent's here would close it for the parent.
        keep_for_ever(self._statements)
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
            return self._statements.execute(statement, parameters, slow_ok=slow_ok)
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
            limit = deadline.READ_SECONDS if seconds is None else seconds
            return self._statements.read(statement, parameters, limit)
        except _DRIVER_ERRORS as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: BaseException) -> InboxUnavailable:
        """Return the error for callers. After one about missing tables they are migrated again."""
        if isinstance(error, _TABLES_MISSING):
            self.migrated = False
        return unavailable(error)

    def notify(self, statement: sa.Executable) -> None:
        """Run a ``statement`` that notifies the listeners of other processes."""
        self.execute(statement, {})

    def listen(self, channel: str, act: Callable[[], object], stopping: threading.Event) -> None:
        """Call ``act`` at each notification on the ``channel``, until ``stopping``.

        It has a connection of its own. Without one it waits for ``stopping``, as described in
        ``PostgresqlListener``.
        """
        try:
            self._make_listener().listen(channel, act, stopping, self._statements.pool)
        except _DRIVER_ERRORS as error:
            raise unavailable(error) from error

    def polling_reason(self) -> str | None:
        """Return why workers learn of other processes' events by polling only. None if not."""
        listener = self._make_listener()
        try:
            return listener.find_fault(lambda channel: self.execute(_NOTIFY, {"channel": channel}))
        except _DRIVER_ERRORS as error:
            return in_one_line(error)

    def _make_listener(self) -> PostgresqlListener:
        url = self._listen_url or self._url
        return PostgresqlListener(url, self._breaker, is_own_url=self._listen_url is not None)

    def unsafe_settings(self) -> tuple[str, ...]:
        """Return the settings of the server with which it can lose commits."""
        return tuple(row.name for row in self.read(_UNSAFE_SETTINGS, {}))

    def lossy_encoding(self) -> str | None:
        """Return the encoding of the database if it lacks characters, or None."""
        encoding = str(self.read(_ENCODING, {"table": self._events})[0][0])
        return None if encoding in ENCODINGS else encoding

    @contextmanager
    def migration(self, *, fail_fast: bool = False) -> Iterator[sa.Connection]:
        """Hold one transaction, under an advisory lock that excludes other migrations."""
        pool = postgresql.make_migration_engine(self._url)
        try:
            with self._connect(pool, fail_fast=fail_fast) as connection, connection.begin():
                self._refuse_encoding(connection)
                _lock_migrations(connection, self._set_schema, fail_fast=fail_fast)
                yield connection
        except _DRIVER_ERRORS as error:
            raise unavailable(error) from error
        finally:
            pool.dispose()

    def _refuse_encoding(self, connection: sa.Connection) -> None:
        """Raise ``StartError`` for a new inbox in a database that cannot store every character.

        An inbox that an earlier version made there goes on: it stores such texts with escapes.
        """
        encoding, events = connection.execute(_ENCODING, {"table": self._events}).one()
        if encoding not in ENCODINGS and events is None:
            raise StartError(
                "The inbox cannot be used:",
                [
                    f"the database of DATABASE_URL has the encoding {encoding}, which lacks most"
                    " characters. Create another one with ENCODING 'UTF8' (and TEMPLATE template0)"
                ],
            )

    @property
    def _events(self) -> str:
        if self._schema is None:
            return "events"
        quoted = self._schema.replace('"', '""')
        return f'"{quoted}".events'

    @contextmanager
    def snapshot(self) -> Iterator[sa.Connection]:
        """Hold one reading transaction that sees the state of one moment."""
        pool = postgresql.make_migration_engine(self._url)
        options = {
            "isolation_level": "REPEATABLE READ",
            "postgresql_readonly": True,
            "schema_translate_map": {None: self._schema},
        }
        try:
            with pool.execution_options(**options).connect() as connection, connection.begin():
                yield connection
        except _DRIVER_ERRORS as error:
            raise unavailable(error) from error
        finally:
            pool.dispose()

    def _connect(self, pool: sa.Engine, *, fail_fast: bool) -> sa.Connection:
        # A deadline makes ``Connector`` start a thread, and this process may fork next.
        with self._breaker.watch(limits.SECONDS) if fail_fast else nullcontext():
            return repeat_refused(pool.connect)

    def forbid_creation(self) -> None:
        """Do nothing: the service never creates a database of PostgreSQL's."""

    def examine(self) -> None:
        """Return None: the server keeps the files."""

    def close(self) -> None:
        """Close the connections of all threads. The next statement connects again."""
        self._statements.close()


def _lock_migrations(connection: sa.Connection, schema: str | None, *, fail_fast: bool) -> None:
    # All of this ends with the transaction: a pooler may give the session to another client.
    lock_timeout = session.LOCK_TIMEOUT_MS
    connection.exec_driver_sql(f"SET LOCAL statement_timeout = '{MIGRATION_TIMEOUT}s'")
    # A delivery is answered 503 while another process migrates.
    waits = f"{lock_timeout}ms" if fail_fast else f"{MIGRATION_TIMEOUT}s"
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{waits}'")
    connection.exec_driver_sql(f"SELECT {session.COMMIT_SYNCHRONOUSLY.format(local=True)}")
    _lock_schema(connection, schema)
    # A change of a table that waits for long would block all other users of the table.
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{lock_timeout}ms'")


def _lock_schema(connection: sa.Connection, schema: str | None) -> None:
    """Exclude other migrations of the inbox.

    Inboxes with a ``schema`` of ``DATABASE_SCHEMA`` do not wait for each other. They share the lock
    that an inbox without the setting takes alone, because both can be the same inbox. Version 0.2.0
    takes that lock too.
    """
    if schema is None:
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('app.migrations'))")
        return
    connection.exec_driver_sql("SELECT pg_advisory_xact_lock_shared(hashtext('app.migrations'))")
    connection.execute(_LOCK_SCHEMA, {"key": f"app.migrations.{schema}"})
