"""The inbox's database: SQLite in a file, or PostgreSQL."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import psycopg
import sqlalchemy as sa

from app.errors import InboxUnavailable, Unstorable, in_one_line
from app.inbox.engine import deadline, postgresql, sqlite
from app.inbox.engine.circuit_breaker import CircuitBreaker
from app.inbox.engine.sqlite_file import Findings, SqliteFile, keep_for_ever
from app.inbox.sql.batch import BatchForm

Parameters = dict[str, Any]

#: Seconds that a migration waits for another process's.
MIGRATION_TIMEOUT = 60

#: Seconds after which a listener looks whether it is to stop.
LISTEN_SECONDS = 0.5

#: Seconds after which a listener asks whether anybody is there: silence does not say.
ASK_SECONDS = 10.0

_VALUE_ERRORS = (sa.exc.DataError, sqlite.driver.DataError, psycopg.DataError)
_DRIVER_ERRORS = (sa.exc.DBAPIError, sqlite.driver.Error, psycopg.Error, OSError)


class Database:
    """One database, written to through the driver and read through SQLAlchemy.

    What is written is written at every delivery, and there SQLAlchemy's connection and result
    cost as much as the statement. It makes the statements, once, and the driver runs them.
    """

    def __init__(self, url: str, batch_forms: Mapping[Any, BatchForm]) -> None:
        """Take the ``url`` of the database, and the statements that can be written as batches.

        Nothing connects before the first statement.
        """
        self._batch_forms = batch_forms
        self._url = sa.make_url(url)
        is_sqlite = self._url.get_backend_name() == "sqlite"
        self._file = SqliteFile(self._url, sqlite.prepare) if is_sqlite else None
        self.file = self._file.path if self._file else None
        self.may_create = True
        """Whether a file of SQLite's is made where none is."""
        self._is_migrated = False
        self._begin()
        os.register_at_fork(after_in_child=self._leave_to_the_parent)

    @property
    def address(self) -> str:
        """The URL, without the password, which may stand in the query as well."""
        return self._url.set(query={}).render_as_string(hide_password=True)

    def _leave_to_the_parent(self) -> None:
        # A connection cannot be shared across a fork. The parent's are kept from being
        # finalized here: closing them would end them for the parent.
        if self._file is None:
            keep_for_ever((self._engine, self._writer))
        else:
            self._file.leave_to_the_parent()
        self._begin()

    def _begin(self) -> None:
        self.siblings = sqlite.Siblings()
        """The threads that are about to write: on SQLite they wait a moment for one another."""
        self._making = threading.RLock()
        self._engine: sa.Engine | None = None
        self._writer: sqlite.SqliteWriter | postgresql.PostgresqlWriter | None = None
        self._outage = CircuitBreaker()

    def execute(
        self,
        statement: sa.Executable,
        parameters: Parameters,
        *,
        durable: bool = False,
        slow_ok: bool = False,
    ) -> tuple[Any, ...] | None:
        """Run one writing statement as one transaction, and return its first row.

        When this returns, the commit survives the death of every process, and if ``durable``
        the machine's as well. A statement may run twice when its connection is lost, and has to be
        idempotent. Raises ``Unstorable`` for a value that the database refuses.

        Raises ``InboxUnavailable`` when the database cannot be reached or written. On PostgreSQL
        that takes two seconds at most, or six if ``slow_ok``. The statement may
        still run at any time later.
        """
        writer = self._get_writer()
        try:
            if isinstance(writer, postgresql.PostgresqlWriter):
                return writer.execute(statement, parameters, slow_ok=slow_ok)
            return writer.execute(statement, parameters, durable=durable)
        except _VALUE_ERRORS as error:
            raise Unstorable(in_one_line(error)) from error
        except _DRIVER_ERRORS as error:
            raise _unavailable(error) from error

    def read(
        self,
        statement: sa.Executable,
        parameters: Parameters,
        seconds: float = deadline.READ_SECONDS,
    ) -> list[sa.Row[Any]]:
        """Run one reading statement and return all rows.

        When its connection turns out to be lost it is run once more, on a new one. Raises
        ``InboxUnavailable``, on PostgreSQL after so many ``seconds`` at the latest.
        """
        try:
            with self._watch(seconds):
                try:
                    return self._rows(statement, parameters)
                except sa.exc.DBAPIError as error:
                    if not error.connection_invalidated or isinstance(
                        error.orig, deadline.TimedOut
                    ):
                        raise
                return self._rows(statement, parameters)
        except _DRIVER_ERRORS as error:
            raise _unavailable(error) from error

    def _rows(self, statement: sa.Executable, parameters: Parameters) -> list[sa.Row[Any]]:
        with self._get_engine().connect() as connection:
            return list(connection.execute(statement, parameters).all())

    def _watch(self, seconds: float) -> AbstractContextManager[None]:
        return self._outage.watch(seconds) if self.file is None else nullcontext()

    def listen(self, channel: str, act: Callable[[], object], stopping: threading.Event) -> None:
        """Call ``act`` at every word on a ``channel`` of PostgreSQL's, until ``stopping``.

        It has a connection of its own. Raises ``InboxUnavailable`` when that is lost.
        """
        try:
            with self._watch(deadline.SECONDS):
                connection = self._detached()
            with closing(connection):
                self._ask(connection, f"LISTEN {channel}")
                asked = monotonic()
                while not stopping.is_set():
                    for _ in connection.notifies(timeout=LISTEN_SECONDS, stop_after=1):
                        act()
                    if monotonic() > asked + ASK_SECONDS:
                        self._ask(connection, "SELECT 1")
                        asked = monotonic()
        except _DRIVER_ERRORS as error:
            raise _unavailable(error) from error

    def _detached(self) -> Any:
        pooled = self._get_engine().raw_connection()
        connection = pooled.driver_connection
        pooled.detach()
        return connection

    def _ask(self, connection: Any, sql: str) -> None:
        with self._watch(deadline.SECONDS):
            connection.execute(sql)

    @contextmanager
    def migration(self, *, hurried: bool = False) -> Iterator[sa.Connection]:
        """Hold one transaction that no other migration can run beside.

        Its connection is closed afterwards, so that a process can migrate and then fork.
        Raises ``InboxUnavailable`` when the database cannot be reached within a minute. When
        ``hurried``, PostgreSQL is found out within two seconds not to be there; its statements
        may take their time all the same, or a long one would fail at every delivery.
        """
        try:
            with (
                self._turn(start=not hurried) as engine,
                self._connect(engine, hurried=hurried) as connection,
                connection.begin(),
            ):
                self._take_advisory_lock(connection, hurried=hurried)
                yield connection
        except _DRIVER_ERRORS as error:
            raise _unavailable(error) from error
        if self._file is None:
            self._is_migrated = True
        else:
            self._file.migrated = True

    def _connect(self, engine: sa.Engine, *, hurried: bool) -> sa.Connection:
        # Watched, it would be made in a thread of its own, and whoever does not hurry may fork.
        with self._watch(deadline.SECONDS) if hurried else nullcontext():
            return engine.connect()

    @property
    def migrated(self) -> bool:
        """Whether the tables of the database in use are known to be of this version."""
        return self._is_migrated if self._file is None else self._file.migrated

    def examine(self) -> Findings | None:
        """Return the state of SQLite's files, without any change, as far as it can be seen."""
        with suppress(OSError):
            return None if self._file is None else self._file.examine()
        return None

    @contextmanager
    def _turn(self, *, start: bool) -> Iterator[sa.Engine]:
        """Give the engine for a migration. On SQLite no other process writes in the block."""
        if self._file is None:
            with _disposing(self._make_postgresql(autocommit=False)) as engine:
                yield engine
            return
        create = self.may_create and (start or self._is_first(self._file))
        if create:
            _make_folder(self._file.path.parent)
        with self._file.claim(MIGRATION_TIMEOUT, create=create) as lock:
            open_ = partial(self._file.open, lock)
            with _disposing(sqlite.make_engine(self._url, open_, autocommit=False)) as engine:
                yield engine

    @staticmethod
    def _is_first(file: SqliteFile) -> bool:
        """Whether no file is known to have been here: a new one forgets which events ran."""
        return not file.opened and not file.is_known()

    def _take_advisory_lock(self, connection: sa.Connection, *, hurried: bool) -> None:
        if self.file is not None:
            return
        connection.exec_driver_sql(f"SET LOCAL statement_timeout = '{MIGRATION_TIMEOUT}s'")
        if not hurried:  # a delivery is answered 503 while another process migrates
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{MIGRATION_TIMEOUT}s'")
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('app.migrations'))")
        # A change of a table that waits for long would hold up all others that use the table.
        connection.exec_driver_sql("SET LOCAL lock_timeout = DEFAULT")

    def close(self) -> None:
        """Close the connections of all threads. The next statement connects again."""
        with self._making:
            engine, writer = self._engine, self._writer
            self._engine = self._writer = None
        if writer is not None:
            writer.close()
        if engine is not None:
            engine.dispose()

    def _get_engine(self) -> sa.Engine:
        with self._making:
            if self._engine is None:
                self._engine = self._make_engine()
            return self._engine

    def _get_writer(self) -> sqlite.SqliteWriter | postgresql.PostgresqlWriter:
        with self._making:
            if self._writer is None:
                self._writer = self._make_writer()
            return self._writer

    def _make_writer(self) -> sqlite.SqliteWriter | postgresql.PostgresqlWriter:
        if self._file is None:  # with an engine of its own, whose statements end sooner
            return postgresql.PostgresqlWriter(self._url, self._outage)
        return sqlite.SqliteWriter(self._get_engine(), self._file, self._batch_forms, self.siblings)

    def _make_engine(self) -> sa.Engine:
        if self._file is None:
            return self._make_postgresql(autocommit=True)
        return sqlite.make_engine(self._url, self._file.connect, autocommit=True)

    def _make_postgresql(self, *, autocommit: bool) -> sa.Engine:
        return postgresql.make_engine(self._url, self._outage, autocommit=autocommit)


@contextmanager
def _disposing(engine: sa.Engine) -> Iterator[sa.Engine]:
    try:
        yield engine
    finally:
        engine.dispose()


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _unreachable(f"{type(error).__name__}: {error.strerror}: {folder}") from error


def _unavailable(error: Exception) -> InboxUnavailable:
    return _unreachable(in_one_line(error))


def _unreachable(reason: str) -> InboxUnavailable:
    return InboxUnavailable("the inbox is not available", reason=reason)
