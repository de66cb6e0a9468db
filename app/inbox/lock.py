"""One lock that the threads and processes of this machine share.

SQLite's own busy handler sleeps and is unfair: under load a writer can starve for seconds.
A lock on a file beside the database, taken by every process for every write, serves them
nearly in turn, and the kernel releases it when its holder is killed.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.errors import Unavailable

#: Seconds that a write waits for the lock before the delivery is answered 503.
LOCK_TIMEOUT = 5.0

#: Seconds between two looks at the lock, growing from the first to the last.
LOCK_POLL = (0.0002, 0.005)


class FileLock:
    """A lock that threads and processes of this machine share, by a file.

    It is taken first among the threads, then among the processes. ``flock`` has no time-out
    and a stopped process would hold up all others for ever, so it is asked for in a loop.
    """

    def __init__(self, path: Path) -> None:
        """Take the ``path`` of the file, which is made when the lock is first taken."""
        self._path = path
        self._threads = threading.Lock()
        self._descriptor: int | None = None
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        # flock belongs to the open file, which a child shares with its parent: it would
        # hold the lock whenever the parent does.
        self._threads = threading.Lock()
        self._descriptor = None

    @contextmanager
    def held(self, timeout: float = LOCK_TIMEOUT) -> Iterator[None]:
        """Hold the lock. Raises ``Unavailable`` after ``timeout`` seconds without it."""
        deadline = time.monotonic() + timeout
        if not self._threads.acquire(timeout=timeout):
            raise _locked()
        try:
            descriptor = self._lock_file(deadline)
            try:
                yield
            finally:
                fcntl.flock(descriptor, fcntl.LOCK_UN)
        finally:
            self._threads.release()

    def _lock_file(self, deadline: float) -> int:
        if self._descriptor is None:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        pause, longest = LOCK_POLL
        while True:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise _locked() from None
                time.sleep(pause)
                pause = min(pause * 1.5, longest)
            else:
                return self._descriptor


def _locked() -> Unavailable:
    return Unavailable("the inbox is busy", reason="inbox_locked", retry_after=5)
