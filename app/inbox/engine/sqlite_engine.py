"""The engine for SQLite: the processes of one host share a file."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
import structlog

from app.errors import Unstorable
from app.inbox.batch_form import BatchForm
from app.inbox.engine import sqlite
from app.inbox.engine.errors import unavailable
from app.inbox.engine.file_lock import TIMEOUT
from app.inbox.engine.findings import Findings
from app.inbox.engine.group_commit import GroupCommit
from app.inbox.engine.interface import MIGRATION_TIMEOUT
from app.inbox.engine.sqlite_file import SqliteFile
from app.text import in_one_line

log = structlog.get_logger(__name__)

#: The driver raises ``MemoryError`` for SQLite's own shortage of memory. A later try may succeed.
_DRIVER_ERRORS = (sa.exc.DBAPIError, sqlite.driver.Error, OSError, MemoryError)


class _Connections(NamedTuple):
    """The connections that a process opens at its first statement."""

    pool: sa.Engine
    writer: GroupCommit


class SqliteEngine:
    """Implements ``interface.Engine``. One connection writes for all threads of the process."""

    single_host = True
    schema: str | None = None
    unlimited = None

    def __init__(self, url: sa.URL, batch_forms: Mapping[Any, BatchForm]) -> None:
        """Take the ``url`` of the file, and the statements that can run as a batch."""
        self._url = url
        self._batch_forms = batch_forms
        self._file = SqliteFile(url, sqlite.prepare)
        self._may_create = True
        self._reset()
        os.register_at_fork(after_in_child=self._leave_to_the_parent)

    def _reset(self) -> None:
        self._making = threading.Lock()
        self._connections: _Connections | None = None

    def _leave_to_the_parent(self) -> None:
        self._file.leave_to_the_parent()
        self._reset()

    @property
    def address(self) -> str:
        """The URL of the file."""
        return self._url.set(query={}).render_as_string(hide_password=True)

    @property
    def migrated(self) -> bool:
        """True if the tables of the file in use are known to be of this version."""
        return self._file.migrated

    @migrated.setter
    def migrated(self, value: bool) -> None:
        self._file.migrated = value

    def execute(
        self,
        statement: sa.Executable,
        parameters: dict[str, Any],
        *,
        durable: bool = False,
        slow_ok: bool = False,  # noqa: ARG002 - the time-outs of the locks are the limits here
    ) -> tuple[Any, ...] | None:
        """Run one writing statement, in a transaction with those of other threads."""
        try:
            connections = self._connections or self._connect()
            return connections.writer.execute(statement, parameters, durable=durable)
        except sqlite.driver.DataError as error:
            raise Unstorable(in_one_line(error)) from error
        except _DRIVER_ERRORS as error:
            raise unavailable(error) from error

    def read(
        self,
        statement: sa.Executable,
        parameters: dict[str, Any],
        seconds: float | None = None,  # noqa: ARG002 - in WAL mode a read waits for nothing
    ) -> list[sa.Row[Any]]:
        """Run one reading statement and return all rows."""
        try:
            with self._connect().pool.connect() as connection:
                return list(connection.execute(statement, parameters).all())
        except _DRIVER_ERRORS as error:
            raise unavailable(error) from error

    def notify(self, statement: sa.Executable) -> None:
        """Do nothing: SQLite has no notifications. Workers poll."""

    def listen(self, channel: str, act: Callable[[], object], stopping: threading.Event) -> None:
        """Return at once: SQLite has no notifications."""

    def polling_reason(self) -> None:
        """Return None: SQLite has no notifications."""

    def lossy_encoding(self) -> None:
        """Return None: SQLite stores every character."""

    def unsafe_settings(self) -> tuple[str, ...]:
        """Return no setting: each connection sets its own."""
        return ()

    @contextmanager
    def migration(self, *, fail_fast: bool = False) -> Iterator[sa.Connection]:
        """Hold one transaction, under the lock that excludes all other writers.

        A missing file is created. If ``fail_fast``, it is created only where none was: an empty
        inbox has forgotten which events ran. A delivery or a command waits for it then.
        """
        timeout = TIMEOUT if fail_fast else MIGRATION_TIMEOUT
        _warn_without_wal()
        create = self._may_create and (not fail_fast or self._is_first())
        try:
            if create:
                _make_folder(self._file.path.parent)
            with self._file.claim(timeout, create=create) as lock:
                pool = sqlite.make_sqlalchemy_engine(
                    self._url, partial(self._file.open, lock), autocommit=False
                )
                try:
                    with pool.connect() as connection, connection.begin():
                        yield connection
                finally:
                    pool.dispose()
        except _DRIVER_ERRORS as error:
            raise unavailable(error) from error

    @contextmanager
    def snapshot(self) -> Iterator[sa.Connection]:
        """Hold one reading transaction that sees the state of one moment."""
        try:
            with self._connect().pool.connect() as connection:
                connection.exec_driver_sql("BEGIN")
                yield connection
        except _DRIVER_ERRORS as error:
            raise unavailable(error) from error

    def _is_first(self) -> bool:
        """Return True if no process is known to have opened a file at this path."""
        return not self._file.opened and not self._file.is_known()

    def forbid_creation(self) -> None:
        """Never create a missing file."""
        self._may_create = False

    def examine(self) -> Findings | None:
        """Return the state of the files. None if the folder cannot be read."""
        with suppress(OSError):
            return self._file.examine()
        return None

    def close(self) -> None:
        """Close the connections of all threads. The next statement connects again."""
        with self._making:
            connections, self._connections = self._connections, None
        if connections is not None:
            connections.writer.close()
            connections.pool.dispose()

    def _connect(self) -> _Connections:
        with self._making:
            if self._connections is None:
                pool = sqlite.make_sqlalchemy_engine(self._url, self._file.connect, autocommit=True)
                writer = GroupCommit(pool, self._file, self._batch_forms)
                self._connections = _Connections(pool, writer)
            return self._connections


def _warn_without_wal() -> None:
    if not sqlite.is_wal():
        log.warning(
            "sqlite_without_wal",
            sqlite_version=".".join(map(str, sqlite.VERSION)),
            advice="this SQLite can lose commits in WAL mode; slower but safe TRUNCATE is"
            " used. SQLite 3.51.3 or newer (the package pysqlite3) has the correction",
        )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise unavailable(error, folder) from error
