"""The stop of a process: it waits for unfinished work until a deadline, and then ends."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping

import structlog

log = structlog.get_logger(__name__)

#: Returns the number of unfinished things of each kind.
Unfinished = Callable[[], Mapping[str, int]]


def begin(stop: Callable[[], object], unfinished: Unfinished, seconds: float) -> Iterator[None]:
    """Call ``stop``, and yield while work is ``unfinished``, for up to ``seconds``.

    The caller sleeps for a moment at each step. An event loop awaits it, so this does not sleep.
    """
    stop()
    deadline = time.monotonic() + seconds
    while any(unfinished().values()) and time.monotonic() < deadline:
        yield


def end(unfinished: Unfinished, release: Callable[[], object]) -> None:
    """Log and ``release`` the ``unfinished`` work, and end the process. Return if there is none."""
    counts = unfinished()
    if any(counts.values()):
        log.warning("stopped_unfinished", **counts)
        release()
        os._exit(0)  # a thread cannot be ended, and a normal exit may wait for it
