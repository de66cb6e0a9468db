"""A lock that the processes of one host share: ``flock`` on a file beside the database.

SQLite's own busy handler sleeps and is unfair: under load a writer can starve for seconds. Every
process takes this lock for every write. The kernel serves those that wait for it nearly in turn,
and releases it when its holder is killed.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from pathlib import Path

from app.inbox.engine.errors import busy, unavailable
from app.inbox.engine.inodes import Inode, inode

#: Seconds to wait for the lock.
TIMEOUT = 5.0

#: Seconds between two attempts to take the lock: the first pause, and the longest. Short, because
#: writers that wait in the kernel leave the lock free for moments only.
POLL = (0.0002, 0.001)

#: The mode of each file of the inbox. Any user who can open the lock file can hold the lock.
PRIVATE = 0o600

#: Bytes of the longest note in a lock file.
_NOTE_BYTES = 4096


class FileLock:
    """A lock among processes. It does not exclude the threads that share one ``FileLock``."""

    def __init__(self, path: Path, *, timeout: float | None = TIMEOUT) -> None:
        """Take the ``path`` of the file, which is created when the lock is first taken.

        Entering raises ``InboxUnavailable`` after ``timeout`` seconds without the lock, or if the
        file cannot be opened. Without a ``timeout`` there is no limit: a process that is
        stopped while it holds the lock blocks the thread.
        """
        self._path = path
        self._timeout = timeout
        self._descriptor: int | None = None
        self._inode: Inode = None

    def __enter__(self) -> None:
        """Take the lock."""
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        while True:
            descriptor = self._open() if self._descriptor is None else self._descriptor
            if deadline is None:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            else:
                _poll(descriptor, deadline)
            if self._is_at_its_path():
                return
            self.close()  # it was removed: other processes take the lock on a new file

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        try:
            descriptor = self._descriptor = os.open(self._path, flags, PRIVATE)
            make_private(descriptor)
            self._inode = inode(descriptor)
        except OSError as error:
            self.close()
            raise unavailable(error, self._path) from error
        return descriptor

    def _is_at_its_path(self) -> bool:
        try:
            return inode(str(self._path)) == self._inode
        except OSError:  # opening it again raises the reason
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


def _poll(descriptor: int, deadline: float) -> None:
    """Take the lock. Raises ``InboxUnavailable`` at the ``deadline``. ``flock`` has no time-out."""
    pause, longest = POLL
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise busy() from None
        else:
            return
        time.sleep(pause)
        pause = min(pause * 1.5, longest)


def make_private(file: int | str) -> None:
    """Let no other user open a ``file`` of this user's."""
    found = os.stat(file)  # noqa: PTH116 - a descriptor has no method of that name
    if found.st_uid == os.geteuid() and found.st_mode & 0o077:
        os.chmod(file, stat.S_IMODE(found.st_mode) & 0o700)  # noqa: PTH101 - the same
