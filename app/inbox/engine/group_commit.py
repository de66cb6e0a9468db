"""Group commit: one thread per process writes to SQLite, for all other threads.

SQLite has one writer at a time, and a transaction costs nearly the same for one statement and for
eight. So each thread puts its statement into a queue and waits. The writer thread takes all
queued statements and commits them as one transaction. The next ones queue up during the commit. It
passes on the GIL once, and does not wait for more of them.
``docs/adr/0005-group-commit.md`` has the measurements.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Any

import sqlalchemy as sa

from app.inbox.batch_form import BatchForm
from app.inbox.engine import sqlite
from app.inbox.engine.checkpoint import Checkpoints
from app.inbox.engine.errors import busy, unavailable
from app.inbox.engine.sqlite_file import SqliteFile
from app.inbox.engine.transaction import Transactions, Write
from app.runtime import threads

#: Statements in one transaction at most, so that no other process waits long for the file lock.
MAX_STATEMENTS = 64

#: Seconds that a caller waits for its commit or for the write lock.
WRITE_TIMEOUT = 5.0


class QueuedWrite(Write):
    """A statement in the queue, and the lock that its thread waits for."""

    __slots__ = ("begun", "ended", "withdrawn")

    def __init__(
        self, statement: sa.Executable, parameters: dict[str, Any], *, durable: bool
    ) -> None:
        """Take the statement."""
        super().__init__(statement, parameters, durable=durable)
        self.begun = False
        self.withdrawn = False
        #: Held until the writer thread has run the statement.
        self.ended = threading.Lock()
        self.ended.acquire()

    def wait(self) -> tuple[Any, ...] | None:
        """Wait for the commit, and return the first row. Raises the error of the statement.

        After a time-out or a Ctrl-C the statement is written only if its transaction has begun.
        """
        try:
            if not self.ended.acquire(timeout=WRITE_TIMEOUT):
                self._withdraw()
        except BaseException:
            self._withdraw()
            raise
        if self.error is not None:
            raise self.error
        if not self.is_written:
            raise busy()
        return self.row

    def _withdraw(self) -> None:
        """Have the statement dropped, unless its transaction has begun."""
        self.withdrawn = True
        if not self.begun:
            # It stays in the queue for as long as another process holds the file lock. In a long
            # outage the bodies of all refused deliveries would fill the memory.
            self.parameters = {}

    def begin(self) -> bool:
        """Note that its transaction begins. Returns False if it was withdrawn before."""
        self.begun = True  # set before ``withdrawn`` is read, as the two are in the other thread
        return not self.withdrawn


class GroupCommit:
    """Writes for all threads of this process, one transaction at a time."""

    def __init__(
        self, pool: sa.Engine, file: SqliteFile, batch_forms: Mapping[Any, BatchForm]
    ) -> None:
        """Take the ``file``, SQLAlchemy's ``pool`` for it, and the statements with a batch form.

        The thread starts at the first statement, because no thread survives a fork.
        """
        self._transactions = Transactions(file, batch_forms)
        self._file = file
        # No time-out: callers have their own (``WRITE_TIMEOUT``).
        self._lock = file.lock(timeout=None)
        self._checkpoints = Checkpoints(pool, self._alone)
        #: None tells the thread to end.
        self._queue: SimpleQueue[QueuedWrite | None] = SimpleQueue()
        self._queueing = threading.Lock()
        self._thread: threading.Thread | None = None
        #: Held by the thread that uses the connection and the file lock.
        self._write_lock = threading.Lock()

    def execute(
        self, statement: sa.Executable, parameters: dict[str, Any], *, durable: bool
    ) -> tuple[Any, ...] | None:
        """Run one statement, commit it, and return its first row.

        If ``durable``, the commit is on the disk before this returns. Raises the driver's error,
        or ``InboxUnavailable`` after ``WRITE_TIMEOUT`` seconds.
        """
        write = QueuedWrite(statement, parameters, durable=durable)
        with self._queueing:
            if self._thread is None:
                self._thread = self._start()
            self._queue.put(write)
        return write.wait()

    def _start(self) -> threading.Thread:
        try:
            return threads.start("inbox-writer", self._run)
        except (RuntimeError, MemoryError) as error:
            raise unavailable(error) from error

    @contextmanager
    def hold_write_lock(self) -> Iterator[None]:
        """Let no other thread write in the block. Raises ``InboxUnavailable`` after a time-out."""
        if not self._write_lock.acquire(timeout=WRITE_TIMEOUT):
            raise busy()
        try:
            yield
        finally:
            self._write_lock.release()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let no thread of any process write in the block. Raises ``InboxUnavailable``."""
        with self.hold_write_lock(), self._lock:
            yield

    def close(self) -> None:
        """End the thread and close the connection. The next statement starts a new thread.

        Waits for the statements in the queue and a checkpoint that runs, but not longer than
        ``WRITE_TIMEOUT``.
        """
        with self._queueing:
            thread, self._thread = self._thread, None
            if thread is not None:
                self._queue.put(None)
        if thread is not None:
            thread.join(WRITE_TIMEOUT)

    def _run(self) -> None:
        """Write the queued statements until ``close``."""
        while (first := self._queue.get()) is not None:
            with self._write_lock:
                self._commit(first)
                changes = self._transactions.take_changes()
            if sqlite.is_wal():
                self._checkpoints.count(changes)
        self._checkpoints.close()
        with self._write_lock:
            self._transactions.disconnect()
            self._lock.close()

    def _commit(self, first: QueuedWrite) -> None:
        """Commit the ``first`` statement and those in the queue, and wake their threads."""
        writes = [first]
        try:
            # Let other threads queue their statements: passing on the GIL costs less than one more
            # transaction. Those that come while another process has the lock are written too.
            time.sleep(0)
            with self._lock:
                self._take(writes)
                waiting = [write for write in writes if write.begin()]
                self._transactions.run(waiting, self._lock)
        except BaseException as error:  # noqa: BLE001 - it is raised in the threads that wait
            explained = self._file.explain(error)
            for write in writes:
                write.error = write.error or explained
        finally:
            for write in writes:
                write.ended.release()

    def _take(self, writes: list[QueuedWrite]) -> None:
        """Move statements from the queue to ``writes``, up to ``MAX_STATEMENTS``."""
        with suppress(Empty):
            while len(writes) < MAX_STATEMENTS:
                write = self._queue.get_nowait()
                if write is None:  # the thread is to end after this transaction
                    self._queue.put(None)
                    return
                writes.append(write)
