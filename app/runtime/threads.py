"""Long-lived threads: when its work raises, a thread logs the error and starts the work again.

A thread that ends unnoticed takes its share of the work with it: leases are not renewed, events
are not claimed, requests are not answered.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

import structlog

log = structlog.get_logger(__name__)

#: Seconds between a failure and the next try.
PAUSE_SECONDS = 1.0


def start(name: str, work: Callable[[], object]) -> threading.Thread:
    """Start a daemon thread that runs ``work`` until ``work`` returns.

    When ``work`` raises anything, ``SystemExit`` and ``MemoryError`` included, the line
    ``thread_failed`` names the thread, and ``work`` is called again after a second. Raises
    ``RuntimeError`` when the system has no thread left.
    """
    thread = threading.Thread(target=_persist, args=(name, work), name=name, daemon=True)
    thread.start()
    return thread


def _persist(name: str, work: Callable[[], object]) -> None:
    while True:
        try:
            work()
        except BaseException:
            with suppress(BaseException):  # when memory is short a line is lost, not the thread
                log.exception("thread_failed", thread=name)
        else:
            return
        time.sleep(PAUSE_SECONDS)
