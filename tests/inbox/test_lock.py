"""The lock around every write to SQLite, among threads and among processes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from app.errors import Unavailable
from app.inbox.lock import FileLock

HOLD = """
import sys
from pathlib import Path
from app.inbox.lock import FileLock
with FileLock(Path(sys.argv[1])).held():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_lock_can_be_taken_again(tmp_path: Path) -> None:
    """Who releases it can have it again, and the file is for nobody else to read."""
    lock = FileLock(tmp_path / "lock")
    for _ in range(2):
        with lock.held():
            pass

    assert (tmp_path / "lock").stat().st_mode & 0o077 == 0


def test_threads_take_turns(tmp_path: Path) -> None:
    """Two threads are never inside at once."""
    lock = FileLock(tmp_path / "lock")
    inside: list[int] = []

    def work() -> None:
        for _ in range(50):
            with lock.held():
                inside.append(1)
                assert len(inside) == 1
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not inside


def test_a_thread_that_waits_too_long_gives_up(tmp_path: Path) -> None:
    """A delivery is answered 503 rather than kept for ever."""
    lock = FileLock(tmp_path / "lock")
    refused: list[Unavailable] = []

    def wait() -> None:
        with pytest.raises(Unavailable) as raised, lock.held(timeout=0.05):
            pass
        refused.append(raised.value)

    with lock.held():
        thread = threading.Thread(target=wait)
        thread.start()
        thread.join(30)
    assert [error.reason for error in refused] == ["inbox_locked"]


def test_processes_exclude_each_other_until_one_is_killed(tmp_path: Path) -> None:
    """The kernel releases the lock of a process that is killed with it in its hands."""
    path = tmp_path / "lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(Unavailable), FileLock(path).held(timeout=0.05):
            pass
    finally:
        holder.kill()
        holder.wait(30)
        holder.stdin.close()
        holder.stdout.close()
    with FileLock(path).held(timeout=30):
        pass


def test_child_does_not_hold_its_parents_lock(tmp_path: Path) -> None:
    """Flock belongs to the open file, which a fork shares: the child has to open its own."""
    lock = FileLock(tmp_path / "lock")
    with lock.held():
        child = os.fork()
        if child == 0:
            try:
                with lock.held(timeout=0.05):
                    os._exit(1)
            except Unavailable:
                os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
