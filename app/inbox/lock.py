"""One lock that the processes of this machine share.

SQLite's own busy handler sleeps and is unfair: under load a writer can starve for seconds.
A lock on a file beside the database, taken by every process for every write, serves them
nearly in turn, and the kernel releases it when its holder is killed.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from app.errors import Unavailable

#: Seconds that a write waits for the lock before the delivery is answered 503.
TIMEOUT = 5.0

#: Seconds between two looks at the lock, growing from the first to the last.
POLL = (0.0002, 0.005)


class FileLock:
    """A lock among processes, by a file. Among threads its user has to have one of its own.

    ``flock`` has no time-out, and a process that was stopped with the lock in its hands would
    hold up all others for ever. So it is asked for in a loop that ends.
    """

    def __init__(self, path: Path, *, timeout: float = TIMEOUT) -> None:
        """Take the ``path`` of the file, which is made when the lock is first taken.

        Entering raises ``Unavailable`` after ``timeout`` seconds without the lock, or when the
        file cannot be opened.
        """
        self._path = path
        self._timeout = timeout
        self._descriptor: int | None = None

    def __enter__(self) -> None:
        """Take the lock."""
        if self._descriptor is None:
            self._descriptor = self._open()
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._wait(self._descriptor)

    def _open(self) -> int:
        # The mode is SQLite's for its own files: who may write the inbox may take the lock.
        try:
            return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise Unavailable(
                "the inbox is not available",
                reason=f"{type(error).__name__}: {error.strerror}: {self._path}",
                retry_after=5,
            ) from error

    def _wait(self, descriptor: int) -> None:
        deadline = time.monotonic() + self._timeout
        pause, longest = POLL
        while True:
            time.sleep(pause)
            pause = min(pause * 1.5, longest)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Unavailable(
                        "the inbox is busy", reason="inbox_locked", retry_after=5
                    ) from None
            else:
                return

    def __exit__(self, *_error: object) -> None:
        """Release the lock."""
        if self._descriptor is not None:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the file. A lock that is held is released."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)
