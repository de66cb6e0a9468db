"""The identity of the files that make up an SQLite database: their inodes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

#: The device and the number of a file. None if it is missing.
Inode = tuple[int, int] | None


class Inodes(NamedTuple):
    """The database, its log (``-wal``), and the index of the log (``-shm``)."""

    file: Inode
    wal: Inode
    shm: Inode


class Paths(NamedTuple):
    """The paths of the same three files."""

    file: str
    wal: str
    shm: str

    def inodes(self) -> Inodes:
        """Return the inodes at the paths. Raises ``OSError`` if a folder cannot be searched."""
        return Inodes(inode(self.file), inode(self.wal), inode(self.shm))


def paths_of(path: Path) -> Paths:
    """Return the paths for a database at ``path``. SQLite follows links before it names them."""
    real = os.path.realpath(path)
    return Paths(str(path), f"{real}-wal", f"{real}-shm")


def inode(path: str | int) -> Inode:
    """Return the inode at a ``path``, or of an open descriptor.

    Raises ``OSError`` if a folder cannot be searched.
    """
    try:
        found = os.stat(path)  # noqa: PTH116 - at every write
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino
