"""One lock that the processes of this machine share.

SQLite's own busy handler sleeps and is unfair: under load a writer can starve for seconds.
A lock on a file beside the database, taken by every process for every write, serves them
nearly in turn, and the kernel releases it when its holder is killed.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from pathlib import Path

from app.errors import InboxUnavailable

#: Seconds that a write waits for the lock before the delivery is answered 503.
TIMEOUT = 5.0

#: Seconds between two looks at the lock, growing from the first to the last.
POLL = (0.0002, 0.005)

#: The mode of each file of the inbox. Any user who can open the lock file can hold the lock.
PRIVATE = 0o600

#: The longest note in a lock file.
_NOTE_BYTES = 4096


class FileLock:
    """A lock among processes, by a file. Among threads its user has to have one of its own.

    ``flock`` has no time-out, and a process that was stopped with the lock in its hands would
    hold up all others for ever. So it is asked for in a loop that ends.
    """

    def __init__(self, path: Path, *, timeout: float = TIMEOUT) -> None:
        """Take the ``path`` of the file, which is made when the lock is first taken.

        Entering raises ``InboxUnavailable`` after ``timeout`` seconds without the lock, or when the
        file cannot be opened.
        """
        self._path = path
        self._timeout = timeout
        self._descriptor: int | None = None

    def __enter__(self) -> None:
        """Take the lock."""
        deadline = time.monotonic() + self._timeout
        while True:
            descriptor = self._open() if self._descriptor is None else self._descriptor
            _wait(descriptor, deadline)
            if self._is_at_its_path(descriptor):
                return
            self.close()  # it was removed: other processes take the lock on a new file

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        try:
            descriptor = self._descriptor = os.open(self._path, flags, PRIVATE)
            make_private(descriptor)
        except OSError as error:
            self.close()
            raise InboxUnavailable(
                "the inbox is not available",
                reason=f"{type(error).__name__}: {error.strerror}: {self._path}",
            ) from error
        return descriptor

    def _is_at_its_path(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self._path))  # noqa: PTH116 - at every write
        except OSError:  # opening it again says why
            return False

    def __exit__(self, *_error: object) -> None:
        """Release the lock."""
        if self._descriptor is not None:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def read(self) -> bytes:
        """Return the note in the lock file. The lock has to be held."""
        return b"" if self._descriptor is None else os.pread(self._descriptor, _NOTE_BYTES, 0)

    def write(self, note: bytes) -> None:
        """Replace the note in the lock file. The lock has to be held."""
        if self._descriptor is not None:
            os.pwrite(self._descriptor, note, 0)
            os.ftruncate(self._descriptor, len(note))

    def close(self) -> None:
        """Close the file. A lock that is held is released."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def _wait(descriptor: int, deadline: float) -> None:
    """Take the lock. Raises ``InboxUnavailable`` at the ``deadline``."""
    pause, longest = POLL
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise InboxUnavailable("the inbox is busy", reason="inbox_locked") from None
        else:
            return
        time.sleep(pause)
        pause = min(pause * 1.5, longest)


def make_private(file: int | str) -> None:
    """Take all rights to a ``file`` of this user's from all other users."""
    found = os.stat(file)  # noqa: PTH116 - a descriptor has no method of that name
    if found.st_uid == os.geteuid() and found.st_mode & 0o077:
        os.chmod(file, stat.S_IMODE(found.st_mode) & 0o700)  # noqa: PTH101 - the same
