"""The lock among processes around every write to SQLite."""

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
    """Who releases it can have it again."""
    lock = FileLock(tmp_path / "lock")
    for _ in range(2):
        with lock:
            pass
        lock.close()


def test_lock_that_is_held_is_waited_for_and_then_given_up(tmp_path: Path) -> None:
    """A delivery is answered 503 rather than kept for ever."""
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
    """A volume that cannot be written is 503 with its reason, not a fault of ours."""
    with pytest.raises(InboxUnavailable) as raised, FileLock(tmp_path / "no folder" / "lock"):
        pass
    assert "FileNotFoundError: No such file or directory" in raised.value.reason


def test_lock_whose_mode_cannot_be_set_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some file systems have no modes: that is 503 with the path, and no descriptor stays open."""

    def refuse(*_arguments: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    # No file system of a test's refuses this to root.
    monkeypatch.setattr("app.inbox.engine.file_lock.make_private", refuse)
    path = tmp_path / "lock"

    with pytest.raises(InboxUnavailable) as raised, FileLock(path):
        pass

    assert raised.value.reason == f"PermissionError: Operation not permitted: {path}"
    opened = [os.path.realpath(each) for each in Path("/dev/fd").iterdir()]
    assert str(path) not in opened


def test_processes_exclude_each_other_until_one_is_killed(tmp_path: Path) -> None:
    """The kernel releases the lock of a process that is killed with it in its hands."""
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


def test_closing_releases_and_leaving_then_does_nothing(tmp_path: Path) -> None:
    """A process that closes its files while it holds the lock does not hold it any more."""
    lock = FileLock(tmp_path / "lock")
    with lock:
        lock.close()
        other = FileLock(tmp_path / "lock", timeout=0.05)
        with other:
            pass
        other.close()


def test_lock_of_a_removed_file_is_none(tmp_path: Path) -> None:
    """Two processes that hold the lock on two files would both hold it."""
    path = tmp_path / "lock"
    first, second = FileLock(path), FileLock(path, timeout=0.05)
    with first:
        pass
    path.unlink()
    first._timeout = 0.05  # noqa: SLF001 - so that it does not wait for long
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


def test_lock_whose_folder_cannot_be_searched_is_not_kept(tmp_path: Path) -> None:
    """A process that finds out by an error would keep all others from the lock."""
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


def test_lock_whose_file_is_removed_while_it_is_waited_for(tmp_path: Path) -> None:
    """A process that gets the lock on a removed file takes the one on the new file instead."""
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
    """What is not held can neither be read nor written."""
    lock = FileLock(tmp_path / "lock")
    lock.write(b"note")
    assert lock.read() == b""
    assert not (tmp_path / "lock").exists()
