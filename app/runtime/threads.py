"""Long-lived threads. When its work raises, a thread logs the error and repeats the work.

If a thread ended silently, leases would not be renewed, events not claimed, requests not answered.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

import structlog

log = structlog.get_logger(__name__)

#: Seconds between an error and the next try.
PAUSE_SECONDS = 1.0


def start(name: str, work: Callable[[], object]) -> threading.Thread:
    """Start a daemon thread that runs ``work`` until ``work`` returns.

    When ``work`` raises, even ``SystemExit`` or ``MemoryError``, the line ``thread_failed`` is
    logged with the name of the thread, and ``work`` is called again after a second. Raises
    ``RuntimeError`` when the system cannot start a thread.
    """
    thread = threading.Thread(target=_persist, args=(name, work), name=name, daemon=True)
    thread.start()
    return thread


def _persist(name: str, work: Callable[[], object]) -> None:
    while True:
        try:
            work()
        except BaseException:
            with suppress(BaseException):  # when memory is short, the line is lost, not the thread
                log.exception("thread_failed", thread=name)
        else:
            return
        time.sleep(PAUSE_SECONDS)
