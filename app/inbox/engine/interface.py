"""The interface of an engine."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import sqlalchemy as sa

from app.inbox.engine.findings import Findings

#: Seconds that a migration waits for the migration of another process.
MIGRATION_TIMEOUT = 60


class Unlimited(Protocol):
    """Connections for statements that take long and cannot run in a transaction."""

    def connect(self, purpose: str, *, waits: bool) -> AbstractContextManager[sa.Connection | None]:
        """Return a block with a connection that commits each statement, however long it takes.

        One process at a time has it for one ``purpose``. Another one waits for it, or gets None if
        not ``waits``.
        """


class Engine(Protocol):
    """Runs statements on one database. Nothing connects before the first statement.

    Writing statements go to the driver directly: SQLAlchemy's connection and result cost as much
    as the statement, at every delivery. A method for a feature that the database lacks does
    nothing. Every method but ``examine`` and ``close`` raises ``InboxUnavailable``.
    """

    single_host: bool
    """True if only processes of one host may use the database."""

    migrated: bool
    """True if the tables of the database in use are known to be of this version.

    The ``Store`` sets it. The engine makes it False when the tables are gone or were replaced."""

    schema: str | None
    """The schema that qualifies the tables of every statement. None on SQLite.

    The ``Store`` sets it when it has found the tables: ``search_path`` can lead elsewhere later."""

    @property
    def unlimited(self) -> Unlimited | None:
        """Connections without a time limit. None on SQLite: a statement excludes all writers."""

    @property
    def address(self) -> str:
        """The URL of the database, without the password."""

    def execute(
        self,
        statement: sa.Executable,
        parameters: dict[str, Any],
        *,
        durable: bool = False,
        slow_ok: bool = False,
    ) -> tuple[Any, ...] | None:
        """Run one writing statement as one transaction, and return its first row.

        With the execution option ``all_rows`` it returns a tuple of all rows.
        The commit survives the death of every process. If ``durable``, it survives a crash of the
        machine too; PostgreSQL's commits always do. Raises ``Unstorable`` for a value that the
        database refuses.

        On PostgreSQL ``InboxUnavailable`` comes after two seconds at most, or after six if
        ``slow_ok``. The server may still run the statement later. It may also run twice when its
        connection is lost. So a statement has to be idempotent.
        """

    def read(
        self,
        statement: sa.Executable,
        parameters: dict[str, Any],
        seconds: float | None = None,
    ) -> list[sa.Row[Any]]:
        """Run one reading statement, and return all rows.

        On PostgreSQL it takes at most ``seconds``, or 35 if that is None. It is repeated once if
        its connection is lost.
        """

    def notify(self, statement: sa.Executable) -> None:
        """Run a ``statement`` that notifies the listeners of other processes."""

    def listen(self, channel: str, act: Callable[[], object], stopping: threading.Event) -> None:
        """Call ``act`` at each notification on the ``channel``, until ``stopping``.

        Behind a pooler, and while connections are scarce, there are no notifications.
        """

    def polling_reason(self) -> str | None:
        """Return why workers learn of other processes' events by polling only.

        None if notifications arrive, or if the database has none. Raises ``InboxUnavailable`` only
        when the database itself is not available.
        """

    def unsafe_settings(self) -> tuple[str, ...]:
        """Return the settings of the database server with which it can lose commits."""

    def lossy_encoding(self) -> str | None:
        """Return the encoding of the database if it lacks characters, or None."""

    def migration(self, *, fail_fast: bool = False) -> AbstractContextManager[sa.Connection]:
        """Return a block with one transaction that runs beside no other migration.

        Its connection is closed afterwards, so that a process can migrate and then fork. It waits
        up to a minute for the database. If ``fail_fast``, a PostgreSQL that cannot be reached fails
        within two seconds, and a locked SQLite file within five. Statements may take longer.
        """

    def snapshot(self) -> AbstractContextManager[sa.Connection]:
        """Return a block with one reading transaction that sees the state of one moment.

        Others may write beside it, but on an SQLite without WAL mode.
        """

    def forbid_creation(self) -> None:
        """Never create a missing database file."""

    def examine(self) -> Findings | None:
        """Return the state of the database's files, without any change, as far as it can be read.

        None if the database has no files of this host.
        """

    def close(self) -> None:
        """Close the connections of all threads. The next statement connects again."""
