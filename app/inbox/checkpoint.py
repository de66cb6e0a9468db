"""Moves what SQLite has written to its log into the database, while others go on writing.

Left to itself SQLite does it in the commit that finds the log long. That commit waits for the disk
some milliseconds, and everybody who is to write waits for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, suppress

import sqlalchemy as sa
import structlog

from app.errors import Unavailable

log = structlog.get_logger(__name__)

#: Transactions of this process from one checkpoint to the next. Each adds some five pages of 4 KB.
TRANSACTIONS = 400

#: Pages in the log at which a commit does it after all: 32 MB. Nobody came to it in time.
MOST_PAGES = 8_000

#: Seconds that a process which closes its inbox waits for a checkpoint.
CLOSE_SECONDS = 5.0

_CHECKPOINT = "PRAGMA wal_checkpoint(PASSIVE)"


class Checkpoints:
    """The checkpoints of one process: each in a thread of its own, and one at a time."""

    def __init__(
        self, engine: sa.Engine, alone: Callable[[], AbstractContextManager[None]]
    ) -> None:
        """Take the ``engine`` to connect with, and what keeps all others from writing."""
        self._engine = engine
        self._alone = alone
        self._transactions = 0
        self._thread: threading.Thread | None = None

    def count(self) -> None:
        """Count one transaction. To be called by one thread at a time."""
        self._transactions += 1
        if self._transactions < TRANSACTIONS or (self._thread and self._thread.is_alive()):
            return
        self._transactions = 0
        thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)
        with suppress(RuntimeError):  # no thread is to be had: what was written is written
            thread.start()
            self._thread = thread

    def _run(self) -> None:
        try:
            with closing(self._engine.connect()) as connection:
                # Nearly all of it is moved while others write.
                connection.exec_driver_sql(_CHECKPOINT).all()
                # The log begins anew, instead of growing, only after a moment in which nothing is
                # left to be moved.
                with self._alone():
                    connection.exec_driver_sql(_CHECKPOINT).all()
        except (sa.exc.DBAPIError, Unavailable) as error:
            # Nothing is lost: what is committed stands in the log.
            log.warning("checkpoint_failed", reason=f"{type(error).__name__}: {error}")

    def close(self) -> None:
        """Wait until no checkpoint runs."""
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)
