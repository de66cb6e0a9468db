"""A note that all processes of a host share while the inbox is away.

It is a file in the folder for temporary files, and is locked while a process works on it. Without
such a folder the note is in the memory of this process.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

#: The maximum size of a note, in bytes.
SIZE = 4096


@dataclass(slots=True)
class Outage:
    """One outage, as far as messages were sent about it. Times are seconds since the epoch."""

    since: float
    raised_id: str
    resolved_id: str
    is_raised: bool = False
    """True when the first message was sent."""
    tries: int = 0
    due_at: float = 0.0


class HostNote:
    """The note about an outage of one inbox."""

    def __init__(self, address: str) -> None:
        """Take the ``address`` of the inbox. The note of another inbox is another file."""
        name = hashlib.sha256(address.encode()).hexdigest()[:16]
        self._name = f"stripe-event-receiver-{os.getuid()}-{name}.outage"
        self._in_memory: Outage | None = None
        self._descriptor: int | None = None

    @contextlib.contextmanager
    def locked(self) -> Iterator[bool]:
        """Lock the note for this block. Yields False when another process holds the lock."""
        self._descriptor = self._open()
        try:
            yield self._descriptor is None or _lock(self._descriptor)
        finally:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None

    @property
    def is_written(self) -> bool:
        """True if there is a note. It may be the one of a process that has ended."""
        if self._in_memory is not None:
            return True
        with contextlib.suppress(OSError):
            return self._path().stat().st_size > 0
        return False

    def read(self) -> Outage | None:
        """Return the outage of the note. The note must be locked."""
        if self._descriptor is None:
            return self._in_memory
        text = os.pread(self._descriptor, SIZE, 0)
        try:
            return Outage(**json.loads(text)) if text else None
        except (ValueError, TypeError):  # the disk was full, or another version wrote it
            return None

    def write(self, outage: Outage | None) -> None:
        """Replace the note, or empty it. The note must be locked."""
        self._in_memory = outage
        if self._descriptor is not None:
            self._in_memory = None
            text = json.dumps(asdict(outage)).encode() if outage else b""
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, text, 0)

    def _path(self) -> Path:
        return Path(tempfile.gettempdir()) / self._name

    def _open(self) -> int | None:
        """Open the file. None if there can be none, or if it is not this user's."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(self._path(), flags, 0o600)
        except OSError:
            return None
        found = os.fstat(descriptor)
        if stat.S_ISREG(found.st_mode) and found.st_uid == os.getuid():
            return descriptor
        os.close(descriptor)
        return None


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
