"""SQLite's file: a transaction counts only if it is in the file that is at the path.

A process that has a file open can write to it after it was removed or replaced. So each connection
knows the inodes of its database, of the log (``-wal``) and of the index of the log (``-shm``). They
are compared with those at the paths, under the lock among processes, around every transaction.

The lock file holds a note with the inodes of the connection that was opened last. SQLite replays a
log into any database that is beside it. So a log that the note names is renamed when its database
is not at the path any more.

SQLite removes a log by its path when the last connection to its database is closed. So a connection
whose files are not at their paths is never closed, and neither is one of the parent process.
"""

from __future__ import annotations

import ctypes
import json
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import sqlalchemy as sa
import structlog

from app.errors import InboxUnavailable
from app.inbox.engine.file_lock import PRIVATE, TIMEOUT, FileLock, make_private

try:  # The SQLite in this wheel has the WAL-reset bug fixed, Python's own mostly has not.
    from pysqlite3 import dbapi2 as driver
except ImportError:  # No wheel for this platform: journal_mode() then does without WAL.
    import sqlite3 as driver

__all__ = ["Connection", "Findings", "Inodes", "SqliteFile", "driver", "keep_for_ever"]

log = structlog.get_logger(__name__)

_MESSAGES = {
    "inbox_file_missing": "the inbox's file is missing",
    "inbox_file_replaced": "the inbox's file was replaced",
    "inbox_log_missing": "the log beside the inbox's file was removed or replaced",
    "inbox_index_missing": "the index beside the inbox's file was removed or replaced",
}

_ADVICE = {
    "inbox_file_missing": "put the file back, or restart the service with an empty inbox, which"
    " has forgotten which events were handled",
    "inbox_file_replaced": "the process changes over to the file that is there now. If it does"
    " not, the reason of the next delivery says why",
    "inbox_log_missing": "the process moves what it has of the log to the file, and goes on",
    "inbox_index_missing": "restart the service",
}

_Inode = tuple[int, int] | None


class Inodes(NamedTuple):
    """Device and number of the database, the log and the index; None for a file that is missing."""

    file: _Inode
    wal: _Inode
    shm: _Inode


class Findings(NamedTuple):
    """The state of the files at their paths.

    ``known``: a process has opened the file at this path before. ``user``: the process that may
    use another file than the one at the path. ``stuck``: the process that answers 503 until it is
    restarted, because the index of its log was removed. ``exposed``: the files that other users
    can open. ``aside``: the logs of former files.
    """

    exists: bool
    known: bool
    user: int | None
    stuck: int | None
    exposed: tuple[Path, ...]
    aside: tuple[Path, ...]


class Connection(driver.Connection):  # type: ignore[misc]  # the wheel has no types
    """A connection that is closed only while its files are at their paths."""

    file: SqliteFile
    process: int
    inodes: Inodes | None = None

    def close(self) -> None:
        """Close the connection, or keep it open for ever."""
        if self.inodes is None or self.file.has(self):
            super().close()
            self.inodes = None
        else:
            keep_for_ever(self)


class SqliteFile:
    """The file of one inbox, for one process."""

    def __init__(self, url: sa.URL, prepare: Callable[[Any], None]) -> None:
        """Take the ``url``, and what is done with each connection before it is used."""
        self.path = Path(url.database or "").absolute()
        self.lock_path = Path(f"{self.path}.lock")
        self._options = dict(url.get_dialect()().create_connect_args(url)[1])
        self._prepare = prepare
        self._paths = _beside(self.path)
        self._file: _Inode = None
        self._latest: Inodes | None = None
        self._without_index: _Inode = None
        self._said: str | None = None
        self.opened = False
        """Whether this process, or the one that it was forked from, has had a file."""
        self.migrated = False
        """Whether the file in use has the tables of this version."""
        self._begin()

    def _begin(self) -> None:
        self._saying = threading.Lock()
        self._connections: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._locks: weakref.WeakSet[FileLock] = weakref.WeakSet()

    def leave_to_the_parent(self) -> None:
        """Use nothing of the parent's in a forked child.

        Its locks are closed: they would be held for as long as the child lives.
        """
        for connection in self._connections:
            keep_for_ever(connection)
        for lock in self._locks:
            lock.close()
        self._begin()

    def lock(self, timeout: float = TIMEOUT) -> FileLock:
        """Return a lock of its own for one thread, to be closed."""
        lock = FileLock(self.lock_path, timeout=timeout)
        self._locks.add(lock)
        return lock

    def look(self) -> Inodes:
        """Return the inodes at the paths. Raises ``OSError`` when a folder cannot be searched."""
        file, wal, shm = self._paths
        return Inodes(_inode(file), _inode(wal), _inode(shm))

    def has(self, connection: Connection) -> bool:
        """Whether the ``connection`` is of this process, and its files are those at the paths."""
        try:
            return connection.process == os.getpid() and self.look() == connection.inodes
        except OSError:
            return False

    def has_file(self, connection: Connection) -> bool:
        """Whether the database is at its path: the log can be saved if that is lost alone."""
        return connection.inodes is not None and _inode(self._paths[0]) == connection.inodes.file

    @contextmanager
    def claim(self, timeout: float, *, create: bool) -> Iterator[FileLock]:
        """Hold the lock, and use the file that is at the path from now on.

        A missing file is made if ``create``. Raises ``InboxUnavailable``.
        """
        if not create and self.look().file is None:
            raise self._unavailable("inbox_file_missing")
        lock = self.lock(timeout)
        try:
            with lock:
                if create and self.look().file is None:
                    self._make(lock)
                self._file, self.opened = self.look().file, True
                yield lock
        finally:
            lock.close()

    def _make(self, lock: FileLock) -> None:
        if _read_note(lock.read()) is not None:
            log.warning("inbox_file_made_anew", file=str(self.path))
        # SQLite gives its other files the mode of this one.
        os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE))

    def is_known(self) -> bool:
        """Whether a process has opened the file at this path before."""
        return _read_note(self._peek()) is not None

    def _peek(self) -> bytes:
        with suppress(OSError):
            return self.lock_path.read_bytes()
        return b""

    def connect(self) -> Connection:
        """Open a connection. Raises ``InboxUnavailable`` and the driver's errors."""
        lock = self.lock()
        try:
            with lock:
                return self.open(lock)
        except InboxUnavailable as error:
            raise self.explain(error) from error
        finally:
            lock.close()

    def open(self, lock: FileLock) -> Connection:
        """Open a connection under the ``lock``. Raises ``InboxUnavailable`` or a driver's error."""
        self._paths = _beside(self.path)
        here = self.look()
        note = _read_note(lock.read())
        if note is not None and note.inodes.file == here.file:
            self._save_log(note, here)
        self._admit(here)
        if note is not None and note.inodes.file != here.file:
            self._set_aside(note.inodes, here)
        connection = self._open(here)
        connection.inodes = self._latest = self.look()
        for path, inode in zip(self._paths, connection.inodes, strict=True):
            if inode is not None:
                make_private(path)
        self._say(None)
        if note is None or note.inodes != connection.inodes or not _is_alive(note.process):
            lock.write(_Note(connection.inodes, os.getpid()).encode())
        return connection

    def _admit(self, here: Inodes) -> None:
        if here.file is None:
            raise self._unavailable("inbox_file_missing")
        if not self.opened:
            self._file, self.opened = here.file, True
        if self._file != here.file:
            raise self._unavailable("inbox_file_replaced")
        if self._without_index == here.file:
            raise self._unavailable("inbox_index_missing")

    def _open(self, here: Inodes) -> Connection:
        connection: Connection = driver.connect(
            f"file:{quote(str(self.path))}?mode=rw",
            **{**self._options, "uri": True, "factory": Connection, "isolation_level": None},
        )
        connection.file, connection.process = self, os.getpid()
        self._connections.add(connection)
        if self.look().file != here.file:
            keep_for_ever(connection)
            raise self._unavailable("inbox_file_replaced")
        try:
            self._prepare(connection)
            connection.execute("SELECT 1 FROM sqlite_schema").fetchall()  # opens log and index
        except BaseException:
            connection.close()
            raise
        return connection

    def _save_log(self, note: _Note, here: Inodes) -> None:
        """Move what is in a removed log to its database, before a new log is begun.

        Raises ``InboxUnavailable`` when that cannot be done now, or when it is for another process.
        """
        if note.inodes.wal in {None, here.wal}:
            return
        having = [each for each in self._connections if each.inodes == note.inodes]
        if any(map(_checkpoint, having)):
            return
        # If the index is missing too, SQLite removed both, or no other process can use the log.
        elsewhere = here.shm == note.inodes.shm and _is_alive(note.process)
        if having or (elsewhere and note.process != os.getpid()):
            raise self._unavailable("inbox_log_missing")

    def _set_aside(self, noted: Inodes, here: Inodes) -> None:
        """Rename the log of a former database, and remove its index."""
        _, wal, shm = self._paths
        if here.shm is not None and here.shm == noted.shm:
            Path(shm).unlink()
        if here.wal is not None and here.wal == noted.wal:
            kept = f"{wal}.{time.time_ns()}"
            Path(wal).rename(kept)
            log.warning("inbox_log_set_aside", file=str(self.path), log=kept)

    def verify(self, connection: Connection) -> None:
        """Raise ``InboxUnavailable`` unless the files of the ``connection`` are at their paths."""
        here, own = self.look(), connection.inodes
        if here == own:
            return
        if own is None or here == self._latest:  # another connection has noticed the change
            raise _error("inbox_file_replaced")
        if here.file is None:
            raise self._unavailable("inbox_file_missing")
        if here.file != own.file:
            raise self._unavailable("inbox_file_replaced")
        if here.shm != own.shm:
            # This process has the lost index in its memory, and others would make a new one.
            self._without_index = here.file
            raise self._unavailable("inbox_index_missing")
        raise self._unavailable("inbox_log_missing")

    def _unavailable(self, reason: str) -> InboxUnavailable:
        """Return the error, and log it once for each change."""
        self.migrated = False
        self._say(reason)
        return _error(reason)

    def _say(self, reason: str | None) -> None:
        """Log the ``reason`` why the file cannot be used, or None if it can, when that changes."""
        with self._saying:
            said, self._said = self._said, reason
        if said == reason:
            return
        if reason is None:
            log.info("inbox_file_opened", file=str(self.path))
        else:
            log.error(reason, file=str(self.path), advice=_ADVICE[reason])

    def explain(self, error: BaseException) -> BaseException:
        """Return the ``error``, or that the file is missing if it is."""
        with suppress(OSError):
            if isinstance(error, Exception) and self.opened and self.look().file is None:
                return self._unavailable("inbox_file_missing")
        return error

    def examine(self) -> Findings:
        """Return the state of the files, without any change. Raises ``OSError``."""
        note = _read_note(self._peek())
        here = self.look()
        paths = [self.lock_path, *map(Path, self._paths)]
        wal = Path(self._paths[1])
        user = note if note is not None and _is_alive(note.process) else None
        return Findings(
            exists=here.file is not None,
            known=note is not None,
            user=user.process if user and user.inodes.file != here.file else None,
            stuck=user.process if user and user.lost_its_index(here) else None,
            exposed=tuple(path for path in paths if path.exists() and path.stat().st_mode & 0o077),
            aside=tuple(sorted(wal.parent.glob(f"{wal.name}.*"))),
        )


class _Note(NamedTuple):
    """What the lock file says: the inodes that were opened last, and by which process."""

    inodes: Inodes
    process: int

    def lost_its_index(self, here: Inodes) -> bool:
        """Whether the index is not at its path, though the log is. SQLite removes both."""
        file, wal, shm = self.inodes
        return wal is not None and here[:2] == (file, wal) and here.shm != shm

    def encode(self) -> bytes:
        return json.dumps({"inodes": self.inodes, "process": self.process}).encode()


def _read_note(note: bytes) -> _Note | None:
    """Read a note. One that was not written to its end is none."""
    try:
        values = json.loads(note)
        inodes = [each and (int(each[0]), int(each[1])) for each in values["inodes"]]
        return _Note(Inodes(*inodes), int(values["process"]))
    except (ValueError, TypeError, KeyError, IndexError):
        return None


def _beside(path: Path) -> tuple[str, str, str]:
    """Return the paths of database, log and index. SQLite follows links before it names them."""
    real = os.path.realpath(path)
    return str(path), f"{real}-wal", f"{real}-shm"


def _checkpoint(connection: Connection) -> bool:
    """Move the log of the connection to its database. False when it was not all moved."""
    try:
        busy, pages, moved = connection.execute("PRAGMA wal_checkpoint(FULL)").fetchone()
    except driver.Error:
        return False
    return not busy and pages == moved


def _error(reason: str) -> InboxUnavailable:
    return InboxUnavailable(_MESSAGES[reason], reason=reason)


def _inode(path: str) -> _Inode:
    try:
        found = os.stat(path)  # noqa: PTH116 - at every write
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def keep_for_ever(thing: object) -> None:
    """Keep an object from being finalized, at the end of the process too."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
