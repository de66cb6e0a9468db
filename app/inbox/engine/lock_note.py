"""The note in the lock file: which files of SQLite's were opened last, and by which process."""

from __future__ import annotations

import json
import os
from typing import NamedTuple

from app.inbox.engine.inodes import Inodes


class Note(NamedTuple):
    """The inodes of the connection that was opened last, and its process."""

    inodes: Inodes
    process: int

    def has_lost_index(self, here: Inodes) -> bool:
        """Return True if only the index is not at its path. SQLite removes log and index both."""
        file, wal, shm = self.inodes
        return wal is not None and here[:2] == (file, wal) and here.shm != shm

    def is_of_live_process(self) -> bool:
        """Return True if the process of the note runs."""
        return is_alive(self.process)

    def encode(self) -> bytes:
        """Return the content of the lock file."""
        return json.dumps({"inodes": self.inodes, "process": self.process}).encode()


def read_note(content: bytes) -> Note | None:
    """Return the note in a lock file. None if there is none, or it was not written to its end."""
    try:
        values = json.loads(content)
        inodes = [each and (int(each[0]), int(each[1])) for each in values["inodes"]]
        return Note(Inodes(*inodes), int(values["process"]))
    except (ValueError, TypeError, KeyError, IndexError):
        return None


def is_alive(process: int) -> bool:
    """Return True if a process has this number."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
