"""Moves the content of SQLite's log into the database while other threads write.

Otherwise a commit that finds the log too long runs the checkpoint. It waits for the disk some
milliseconds, and so do all other writes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, suppress

import sqlalchemy as sa
import structlog

from app.errors import InboxUnavailable
from app.runtime import threads
from app.text import in_one_line

log = structlog.get_logger(__name__)

#: Transactions of this process between two checkpoints. Each adds some five pages of 4 KB.
TRANSACTIONS = 400

#: A transaction that changes so many rows is no batch of deliveries. It removes old events, for
#: example, and each row adds some two pages.
BULK_ROWS = 65
ROWS_PER_TRANSACTION = 3

#: Seconds that closing the inbox waits for a checkpoint.
CLOSE_SECONDS = 5.0

_CHECKPOINT = "PRAGMA wal_checkpoint(PASSIVE)"


class Checkpoints:
    """The checkpoints of one process: each in a thread of its own, and one at a time."""

    def __init__(self, pool: sa.Engine, alone: Callable[[], AbstractContextManager[None]]) -> None:
        """Take the ``pool`` to connect with, and a block in which no other thread writes."""
        self._pool = pool
        self._alone = alone
        self._transactions = 0
        self._thread: threading.Thread | None = None
        self._failing = False

    def count(self, changes: int = 0) -> None:
        """Count one transaction, and start a checkpoint if it is due. Not thread-safe.

        ``changes`` is the number of rows that the transaction wrote.
        """
        self._transactions += changes // ROWS_PER_TRANSACTION if changes >= BULK_ROWS else 1
        if self._transactions >= TRANSACTIONS and not self._is_running():
            self._transactions = 0
            self._start()

    def _is_running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _start(self) -> None:
        # Without a thread, or memory for one, the log grows. Nothing is lost.
        with suppress(RuntimeError, MemoryError):
            self._thread = threads.start("checkpoint", self._run)

    def _run(self) -> None:
        try:
            with closing(self._pool.connect()) as connection:
                self._checkpoint(connection)
        except (sa.exc.SQLAlchemyError, InboxUnavailable, OSError) as error:
            self._report(error)
        else:
            self._failing = False

    def _checkpoint(self, connection: sa.Connection) -> None:
        try:
            # Moves nearly everything while other threads write.
            connection.exec_driver_sql(_CHECKPOINT).all()
            # SQLite reuses the log only after a checkpoint that moved everything.
            with self._alone():
                connection.exec_driver_sql(_CHECKPOINT).all()
        except sa.exc.SQLAlchemyError:
            # A file that could not be written when it was opened stays so for this connection.
            connection.invalidate()
            raise

    def _report(self, error: Exception) -> None:
        """Log the first of consecutive failures. Nothing is lost: the commits stay in the log."""
        if not self._failing:
            self._failing = True
            log.warning("checkpoint_failed", reason=in_one_line(error))

    def close(self) -> None:
        """Wait until no checkpoint runs."""
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)
