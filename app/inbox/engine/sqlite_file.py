"""SQLite's file: a transaction counts only if it is in the file that is at the path.

A process that has a file open can write to it after it was removed or replaced. So each connection
knows the inodes of its database, of the log (``-wal``) and of the index of the log (``-shm``). They
are compared with those at the paths, under the file lock, around every transaction.

The lock file holds a note with the inodes of the connection that was opened last. SQLite replays a
log into any database that is beside it. So a log that the note names is renamed when its database
is not at the path any more.

SQLite removes a log by its path when the last connection to its database is closed. So a connection
whose files are not at their paths is never closed, and neither is one of the parent process.
"""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
import structlog

from app.errors import InboxUnavailable
from app.inbox.engine import findings
from app.inbox.engine.file_errors import FileLog, file_error
from app.inbox.engine.file_lock import PRIVATE, TIMEOUT, FileLock, make_private
from app.inbox.engine.inodes import Inode, Inodes, inode, paths_of
from app.inbox.engine.keep import keep_for_ever
from app.inbox.engine.lock_note import Note, is_alive, read_note
from app.inbox.engine.sqlite import driver, is_wal

log = structlog.get_logger(__name__)


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
        """Take the ``url``, and a function that sets up each new connection."""
        self.path = Path(url.database or "").absolute()
        self.lock_path = Path(f"{self.path}.lock")
        self._options = dict(url.get_dialect()().create_connect_args(url)[1])
        self._prepare = prepare
        self._paths = paths_of(self.path)
        self._log = FileLog(self.path)
        self._file: Inode = None
        self._latest: Inodes | None = None
        self._without_index: Inode = None
        self.opened = False
        """True if this process, or the one that it was forked from, has used a file."""
        self.migrated = False
        """True if the file in use has the tables of this version."""
        self._reset()

    def _reset(self) -> None:
        self._connections: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._locks: weakref.WeakSet[FileLock] = weakref.WeakSet()

    def leave_to_the_parent(self) -> None:
        """Use no connection and no lock of the parent in a forked child.

        The locks are closed: they would be held for as long as the child lives.
        """
        for connection in self._connections:
            keep_for_ever(connection)
        for lock in self._locks:
            lock.close()
        self._log.reset_lock()
        self._reset()

    def lock(self, timeout: float | None = TIMEOUT) -> FileLock:
        """Return a new file lock for one thread, to be closed. See ``FileLock``."""
        lock = FileLock(self.lock_path, timeout=timeout)
        self._locks.add(lock)
        return lock

    def look(self) -> Inodes:
        """Return the inodes at the paths. Raises ``OSError`` if a folder cannot be searched."""
        return self._paths.inodes()

    def has(self, connection: Connection) -> bool:
        """Return True if the ``connection`` is of this process and its files are at the paths."""
        try:
            return connection.process == os.getpid() and self.look() == connection.inodes
        except OSError:
            return False

    def has_file(self, connection: Connection) -> bool:
        """Return True if the database is at its path. A log that is lost alone can be saved."""
        return connection.inodes is not None and inode(self._paths.file) == connection.inodes.file

    @contextmanager
    def claim(self, timeout: float, *, create: bool) -> Iterator[FileLock]:
        """Hold the lock, and use the file that is at the path from now on.

        A missing file is created if ``create``. Raises ``InboxUnavailable``.
        """
        if not create and self.look().file is None:
            raise self._unavailable("inbox_file_missing")
        lock = self.lock(timeout)
        try:
            with lock:
                if create and self.look().file is None:
                    self._create(lock)
                self._file, self.opened = self.look().file, True
                yield lock
        finally:
            lock.close()

    def _create(self, lock: FileLock) -> None:
        if read_note(lock.read()) is not None:
            log.warning("inbox_file_made_anew", file=str(self.path))
        # SQLite gives its other files the mode of this one.
        os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE))

    def is_known(self) -> bool:
        """Return True if a process has opened the file at this path before."""
        return self._read_note_unlocked() is not None

    def _read_note_unlocked(self) -> Note | None:
        with suppress(OSError):
            return read_note(self.lock_path.read_bytes())
        return None

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
        self._paths = paths_of(self.path)
        here = self.look()
        note = read_note(lock.read())
        if note is not None and note.inodes.file == here.file:
            self._save_log(note, here)
        self._admit(here)
        if note is not None and note.inodes.file != here.file:
            self._set_aside(note.inodes, here)
        connection = self._open(here)
        connection.inodes = self._latest = self._identify(connection, here)
        for path, each in zip(self._paths, connection.inodes, strict=True):
            if each is not None:
                make_private(path)
        self._log.report(None)
        if note is None or note.inodes != connection.inodes or not is_alive(note.process):
            lock.write(Note(connection.inodes, os.getpid()).encode())
        return connection

    def _admit(self, here: Inodes) -> None:
        """Raise ``InboxUnavailable`` unless this process may use the file that is ``here``."""
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

    def _identify(self, connection: Connection, here: Inodes) -> Inodes:
        """Return the inodes of the open ``connection``, whose file was ``here`` before.

        Raises ``InboxUnavailable`` if a file was changed since: the connection may lead to another.
        """
        opened = self.look()
        if opened.file == here.file and not (is_wal() and None in opened):
            return opened
        keep_for_ever(connection)
        if opened.file != here.file:
            raise self._unavailable("inbox_file_replaced")
        self._without_index = here.file  # as in ``verify``
        raise self._unavailable("inbox_index_missing")

    def _save_log(self, note: Note, here: Inodes) -> None:
        """Move the content of a removed log to its database, before a new log is begun.

        Raises ``InboxUnavailable`` if that fails now, or if another process has to do it.
        """
        if note.inodes.wal in {None, here.wal}:
            return
        having = [each for each in self._connections if each.inodes == note.inodes]
        if any(map(_checkpoint, having)):
            return
        # Same index: another live process may have the log open and has to move it. Otherwise
        # SQLite removed log and index, or no other process can use the log.
        elsewhere = here.shm == note.inodes.shm and is_alive(note.process)
        if having or (elsewhere and note.process != os.getpid()):
            raise self._unavailable("inbox_log_missing")

    def _set_aside(self, noted: Inodes, here: Inodes) -> None:
        """Rename the log of a former database, and remove its index."""
        if here.shm is not None and here.shm == noted.shm:
            Path(self._paths.shm).unlink()
        if here.wal is not None and here.wal == noted.wal:
            kept = f"{self._paths.wal}.{time.time_ns()}"
            Path(self._paths.wal).rename(kept)
            log.warning("inbox_log_set_aside", file=str(self.path), log=kept)

    def verify(self, connection: Connection) -> None:
        """Raise ``InboxUnavailable`` unless the files of the ``connection`` are at their paths."""
        here, own = self.look(), connection.inodes
        if here == own:
            return
        if own is None or here == self._latest:  # another connection has noticed the change
            raise file_error("inbox_file_replaced")
        if here.file is None:
            raise self._unavailable("inbox_file_missing")
        if here.file != own.file:
            raise self._unavailable("inbox_file_replaced")
        if here.shm != own.shm:
            # This process has the lost index in its memory, and others would make a new one.
            # Processes with different indexes would corrupt the log, so this one stops.
            self._without_index = here.file
            raise self._unavailable("inbox_index_missing")
        raise self._unavailable("inbox_log_missing")

    def _unavailable(self, reason: str) -> InboxUnavailable:
        """Return the error, and log it once for each change."""
        self.migrated = False
        self._log.report(reason)
        return file_error(reason)

    def explain(self, error: BaseException) -> BaseException:
        """Return the ``error``, or that the file is missing if it is."""
        with suppress(OSError):
            if isinstance(error, Exception) and self.opened and self.look().file is None:
                return self._unavailable("inbox_file_missing")
        return error

    def examine(self) -> findings.Findings:
        """Return the state of the files, without any change. Raises ``OSError``."""
        return findings.find(self.lock_path, self._paths, self.look(), self._read_note_unlocked())


def _checkpoint(connection: Connection) -> bool:
    """Move the log of the connection to its database. Return False if a part was not moved."""
    try:
        busy, pages, moved = connection.execute("PRAGMA wal_checkpoint(FULL)").fetchone()
    except driver.Error:
        return False
    return not busy and pages == moved
