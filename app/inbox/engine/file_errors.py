"""The errors of an SQLite file that was removed or replaced, and their lines in the log."""

from __future__ import annotations

import threading
from pathlib import Path

import structlog

from app.errors import InboxUnavailable

log = structlog.get_logger(__name__)

_MESSAGES = {
    "inbox_file_missing": "the inbox's file is missing",
    "inbox_file_replaced": "the inbox's file was replaced",
    "inbox_log_missing": "the log beside the inbox's file was removed or replaced",
    "inbox_index_missing": "the index beside the inbox's file was removed or replaced",
}

_ADVICE = {
    "inbox_file_missing": "put the file back, or restart the service: the new inbox is empty,"
    " and redelivered events run again",
    "inbox_file_replaced": "no action: the process opens the new file. If it does not, the reason"
    " of the next delivery says why",
    "inbox_log_missing": "no action: the process copies the log into the file",
    "inbox_index_missing": "restart the service",
}


def file_error(reason: str) -> InboxUnavailable:
    """Return the error for a ``reason``, which is one of the four above."""
    return InboxUnavailable(_MESSAGES[reason], reason=reason)


class FileLog:
    """Logs each change of the file's state once, not at every statement."""

    def __init__(self, path: Path) -> None:
        """Take the ``path`` of the file. Nothing is wrong at first."""
        self._path = path
        self._reason: str | None = None
        self.reset_lock()

    def reset_lock(self) -> None:
        """Replace the lock: in a forked child a thread of the parent may hold it for ever."""
        self._lock = threading.Lock()

    def report(self, reason: str | None) -> None:
        """Log a new ``reason`` why the file cannot be used. None: it can be used."""
        with self._lock:
            former, self._reason = self._reason, reason
        if former == reason:
            return
        if reason is None:
            log.info("inbox_file_opened", file=str(self._path))
        else:
            log.error(reason, file=str(self._path), advice=_ADVICE[reason])
