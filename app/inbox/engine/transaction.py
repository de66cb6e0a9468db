"""Runs the statements of many threads as one transaction of SQLite's.

A single statement or batch commits itself. Every further call of the driver
can hand the GIL to another thread while the file lock is held.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import sqlalchemy as sa

from app.inbox.batch_form import BatchForm
from app.inbox.engine import sqlite
from app.inbox.engine.file_lock import FileLock
from app.inbox.engine.sqlite import driver
from app.inbox.engine.sqlite_file import Connection, SqliteFile
from app.inbox.row_for_each import CHANGED, RowForEach


class Write:
    """One writing statement. After it was run: its first row, or its error."""

    __slots__ = ("durable", "error", "is_written", "parameters", "row", "statement")

    def __init__(
        self, statement: sa.Executable, parameters: dict[str, Any], *, durable: bool
    ) -> None:
        """Take a statement. If ``durable``, its commit has to survive a crash of the machine."""
        self.statement = statement
        self.parameters = parameters
        self.durable = durable
        self.row: tuple[Any, ...] | None = None
        self.error: BaseException | None = None
        self.is_written = False


#: The SQL of a statement, and for each of its placeholders the name of the parameter and the
#: number of the execution that it belongs to.
_Compiled = tuple[str, list[tuple[str, int]]]

_Rows = list[tuple[Any, ...]]

#: Entries of each cache. A process has about 75 writing statements, some of them for each number of
#: rows. Four have batches, of up to 64 executions: 256 entries.
MAX_COMPILED = 512


class _BatchFailedError(Exception):
    """The batch changed fewer rows than it has executions."""


class Transactions:
    """The transactions of one process, on one connection. Not for several threads at once."""

    def __init__(self, file: SqliteFile, batch_forms: Mapping[Any, BatchForm]) -> None:
        """Take the ``file``, and the statements that can run as a batch."""
        self._file = file
        self._batch_forms = batch_forms
        self._connection: Connection | None = None
        self._synchronous = sqlite.synchronous()
        self._counted_changes = 0

    def run(self, writes: Sequence[Write], lock: FileLock) -> None:
        """Run all ``writes`` in one transaction, or each alone if one of them fails.

        The ``lock`` has to be held. A statement that fails alone gets its ``error``. Raises an
        error of all of them: ``InboxUnavailable``, ``OSError``, or the driver's error.
        """
        try:
            self._run(writes, self.connect(lock))
        finally:
            if not all(write.is_written for write in writes):
                # A file that could not be written when it was opened stays so for its connection.
                self.disconnect()

    def _run(self, writes: Sequence[Write], connection: Connection) -> None:
        self._file.verify(connection)
        self._synchronize(connection, durable=any(write.durable for write in writes))
        batches = [partial(self._run_batch, connection, batch) for batch in self._batches(writes)]
        if not _commit(connection, batches):
            singles = [partial(self._run_one, connection, write) for write in writes]
            if not _commit(connection, singles):
                _commit_each(writes, singles)
        # A write counts only if it can be found at the path.
        if not self._file.has_file(connection):
            self._file.verify(connection)
        for write in writes:
            write.is_written = write.error is None

    def connect(self, lock: FileLock) -> Connection:
        """Return the connection, opened under the ``lock`` if there is none."""
        if self._connection is None:
            self._connection = self._file.open(lock)
        return self._connection

    def take_changes(self) -> int:
        """Return how many rows were written since the last call, with those of triggers."""
        if self._connection is None:
            return 0
        before, self._counted_changes = self._counted_changes, self._connection.total_changes
        return self._counted_changes - before

    def disconnect(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        self._synchronous = sqlite.synchronous()
        self._counted_changes = 0
        if connection is not None:
            connection.close()

    def _synchronize(self, connection: Connection, *, durable: bool) -> None:
        """Set how durable the next commit is."""
        mode = sqlite.synchronous(durable=durable)
        if mode != self._synchronous:
            connection.execute(f"PRAGMA synchronous = {mode}")
            self._synchronous = mode

    def _batches(self, writes: Sequence[Write]) -> list[list[Write]]:
        """Group the executions of each statement that has a batch form."""
        batches: dict[object, list[Write]] = {}
        for write in writes:
            key = write.statement if write.statement in self._batch_forms else write
            batches.setdefault(key, []).append(write)
        return list(batches.values())

    def _run_batch(self, connection: Connection, writes: list[Write]) -> None:
        statement = writes[0].statement
        form = self._batch_forms.get(statement)
        if form is None:
            self._run_one(connection, writes[0])
            return
        sql, names = _compile_batch(form, len(writes))
        values = tuple([writes[number].parameters[name] for name, number in names])
        if connection.execute(sql, values).rowcount != len(writes):
            raise _BatchFailedError
        for write in writes:
            write.row = form.row(write.parameters)

    def _run_one(self, connection: Connection, write: Write) -> None:
        options = write.statement.get_execution_options()
        also: RowForEach | None = options.get("also")
        if also is None:
            rows = self._fetch(connection, write.statement, write.parameters)
        else:
            rows = self._change(connection, write, also)
        if options.get("all_rows"):
            write.row = tuple(rows)
        else:
            write.row = rows[0] if rows else None

    def _change(self, connection: Connection, write: Write, also: RowForEach) -> _Rows:
        """Run a statement that writes further rows. All of them are written, or none."""
        connection.execute("SAVEPOINT change")
        try:
            rows = self._fetch(connection, write.statement, write.parameters)
            for row in rows:
                self._fetch(connection, also.insert, {**write.parameters, CHANGED: row[0]})
            connection.execute("RELEASE change")
        except driver.Error:
            connection.rollback()
            raise
        return rows

    def _fetch(
        self, connection: Connection, statement: Any, parameters: Mapping[str, Any]
    ) -> _Rows:
        sql, names = _compile(statement)
        values = tuple([parameters[name] for name, _ in names])
        # All rows are fetched, because a statement that is not at its end cannot be committed.
        rows: _Rows = connection.execute(sql, values).fetchall()
        return rows


def _commit(connection: Connection, steps: Sequence[Callable[[], None]]) -> bool:
    """Do all ``steps`` in one transaction. False if one of them failed, and none was done."""
    if len(steps) > 1:
        connection.execute("BEGIN IMMEDIATE")  # when this fails, no single one would succeed
    try:
        for step in steps:
            step()
        if len(steps) > 1:
            connection.execute("COMMIT")
    except (driver.Error, _BatchFailedError) as error:
        connection.rollback()
        if _is_locked(error):
            raise
        return False
    return True


def _commit_each(writes: Sequence[Write], steps: Sequence[Callable[[], None]]) -> None:
    """Do each step in a transaction of its own, and keep the errors of those that fail."""
    locked: driver.Error | None = None
    for write, step in zip(writes, steps, strict=True):
        try:
            if locked is None:
                step()
        except driver.Error as error:
            write.error = error
            if _is_locked(error):  # each further one would wait as long, and block all threads
                locked = error
        else:
            write.error = locked


def _is_locked(error: BaseException) -> bool:
    """Return True if a tool that does not take the file lock has written for too long."""
    return isinstance(error, driver.OperationalError) and "locked" in str(error)


@lru_cache(MAX_COMPILED)
def _compile(statement: sa.Executable) -> _Compiled:
    """Compile a statement, once in the process."""
    return _to_sql(statement)


@lru_cache(MAX_COMPILED)
def _compile_batch(form: BatchForm, count: int) -> _Compiled:
    """Compile a batch for ``count`` executions, once in the process."""
    return _to_sql(form.make(count))


def _to_sql(statement: Any) -> _Compiled:
    """Return a statement's SQL, and its parameters in their order.

    The name of a parameter of a batch ends in ``__`` and the number of its execution.
    """
    compiled = statement.compile(dialect=sqlite.DIALECT)
    names = [name.partition("__") for name in compiled.positiontup]
    return compiled.string, [(name, int(number or 0)) for name, _, number in names]
