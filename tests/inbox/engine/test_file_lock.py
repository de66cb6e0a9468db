"""The file lock around every write to SQLite."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.errors import InboxUnavailable
from app.inbox.engine.file_lock import FileLock
from tests.support.waiting import wait_for

HOLD = """
import sys
from pathlib import Path
from app.inbox.engine.file_lock import FileLock
with FileLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_lock_can_be_taken_again(tmp_path: Path) -> None:
    """A released and closed lock can be taken again."""
    lock = FileLock(tmp_path / "lock")
    for _ in range(2):
        with lock:
            pass
        lock.close()


def test_waiting_has_a_time_out(tmp_path: Path) -> None:
    """A held lock raises ``InboxUnavailable`` after the time-out, and can be taken later."""
    first = FileLock(tmp_path / "lock")
    second = FileLock(tmp_path / "lock", timeout=0.05)
    with first, pytest.raises(InboxUnavailable) as raised, second:
        pass

    assert raised.value.reason == "inbox_locked"
    with second:
        pass
    first.close()
    second.close()


def test_lock_that_cannot_be_opened_is_unavailable(tmp_path: Path) -> None:
    """A volume that cannot be written is an outage, with the reason for the log."""
    with pytest.raises(InboxUnavailable) as raised, FileLock(tmp_path / "no folder" / "lock"):
        pass
    assert "FileNotFoundError: No such file or directory" in raised.value.reason


def test_lock_whose_mode_cannot_be_set_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system without modes is an outage. No descriptor stays open."""

    def refuse(*_arguments: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    # The tests may run as root, which may set every mode.
    monkeypatch.setattr("app.inbox.engine.file_lock.make_private", refuse)
    path = tmp_path / "lock"

    with pytest.raises(InboxUnavailable) as raised, FileLock(path):
        pass

    assert raised.value.reason == f"PermissionError: Operation not permitted: {path}"
    opened = [os.path.realpath(each) for each in Path("/dev/fd").iterdir()]
    assert str(path) not in opened


@pytest.mark.processes
def test_processes_exclude_each_other_until_one_is_killed(tmp_path: Path) -> None:
    """The kernel releases the lock of a killed process."""
    path = tmp_path / "lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    waiting = FileLock(path, timeout=0.05)
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(InboxUnavailable), waiting:
            pass
    finally:
        holder.kill()
        holder.wait(30)
        holder.stdin.close()
        holder.stdout.close()
    with FileLock(path, timeout=30) as _:
        pass
    waiting.close()


def test_closing_releases_the_lock(tmp_path: Path) -> None:
    """A lock that is closed while it is held is released, and leaving the block does nothing."""
    lock = FileLock(tmp_path / "lock")
    with lock:
        lock.close()
        other = FileLock(tmp_path / "lock", timeout=0.05)
        with other:
            pass
        other.close()


def test_lock_of_a_removed_file_does_not_count(tmp_path: Path) -> None:
    """The lock is taken on the file at the path: locks on two files exclude nothing."""
    path = tmp_path / "lock"
    first, second = FileLock(path), FileLock(path, timeout=0.05)
    with first:
        pass
    path.unlink()
    first._timeout = 0.05  # noqa: SLF001 - not to wait for long
    with second, pytest.raises(InboxUnavailable), first:
        pass
    with first:
        first.write(b"note")
    path.unlink()
    path.write_bytes(b"another")
    with first:
        assert first.read() == b"another"
    first.close()
    second.close()


def test_lock_in_an_unsearchable_folder_is_released(tmp_path: Path) -> None:
    """The process that gets the error does not keep the lock."""
    folder, moved = tmp_path / "folder", tmp_path / "moved"
    folder.mkdir()
    first, second = FileLock(folder / "lock"), FileLock(moved / "lock", timeout=0.05)
    with first:
        pass
    folder.rename(moved)
    folder.touch()

    with pytest.raises(InboxUnavailable) as raised, first:
        pass

    assert "NotADirectoryError" in raised.value.reason
    with second:
        pass
    second.close()


def test_lock_behind_a_circular_link_is_released(tmp_path: Path) -> None:
    """Its folder was replaced by a link to itself. The error has the reason."""
    folder = tmp_path / "folder"
    folder.mkdir()
    lock = FileLock(folder / "lock")
    with lock:
        pass
    folder.rename(tmp_path / "other")
    folder.symlink_to(folder)

    with pytest.raises(InboxUnavailable, match="not available") as raised, lock:
        pass
    assert os.strerror(errno.ELOOP) in raised.value.reason
    with FileLock(tmp_path / "other" / "lock"):
        pass


def test_lock_file_removed_during_the_wait(tmp_path: Path) -> None:
    """A process that gets the lock on a removed file takes the lock on the new file."""
    path = tmp_path / "lock"
    holder, waiting, third = FileLock(path), FileLock(path), FileLock(path, timeout=0.05)
    holds = threading.Event()

    def wait() -> bool:
        with waiting:
            holds.set()
            with pytest.raises(InboxUnavailable), third:
                pass
        return True

    with ThreadPoolExecutor(1) as pool:
        with holder:
            result = pool.submit(wait)
            wait_for(lambda: waiting._descriptor is not None)  # noqa: SLF001 - no other way
            path.unlink()
            assert not holds.is_set()
        assert result.result(30)
    assert path.exists()
    for lock in (holder, waiting, third):
        lock.close()


def test_closed_lock_has_no_note(tmp_path: Path) -> None:
    """The note of a lock that is not held is empty, and cannot be written."""
    lock = FileLock(tmp_path / "lock")
    lock.write(b"note")
    assert lock.read() == b""
    assert not (tmp_path / "lock").exists()
