"""The lock among processes around every write to SQLite."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from app.errors import Unavailable
from app.inbox.lock import FileLock

HOLD = """
import sys
from pathlib import Path
from app.inbox.lock import FileLock
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
    with first, pytest.raises(Unavailable) as raised, second:
        pass

    assert raised.value.reason == "inbox_locked"
    with second:
        pass
    first.close()
    second.close()


def test_lock_that_cannot_be_opened_is_unavailable(tmp_path: Path) -> None:
    """A volume that cannot be written is 503 with its reason, not a fault of ours."""
    with pytest.raises(Unavailable) as raised, FileLock(tmp_path / "no folder" / "lock"):
        pass
    assert "FileNotFoundError: No such file or directory" in raised.value.reason


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
        with pytest.raises(Unavailable), waiting:
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
