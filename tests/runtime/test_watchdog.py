"""The watchdog's thread. Tests with real servers show how it ends a process."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from app.runtime.watchdog import EXIT_STATUS, Watchdog
from tests.support.waiting import wait_for

#: The method before a fixture replaces it for all tests in this process.
START = Watchdog.start


def count_threads() -> int:
    """Return the number of watchdog threads."""
    return [each.name for each in threading.enumerate()].count("watchdog")


def test_one_thread_watches_until_the_end() -> None:
    """A second start adds no thread. Without a claim the timer of the process is not set."""
    before = count_threads()
    watchdog = Watchdog(0.1, lambda: False)

    START(watchdog)
    START(watchdog)
    assert count_threads() == before + 1
    watchdog.close()

    wait_for(lambda: count_threads() == before)


#: A process that holds a claim, and is suspended for a minute.
SUSPENDED = """
from app.runtime import watchdog

now = 100.0
watchdog.since_boot = lambda: now
watchdog.LOG_SECONDS = 60.0  # however slow the machine is
watched = watchdog.Watchdog(600, lambda: True)
watched.start()
watched.begin()
now += 301
watched.check()
print("it goes on")
"""


@pytest.mark.processes
@pytest.mark.measured
def test_suspended_process_ends_itself() -> None:
    """Its event may run elsewhere by now. It says so, with the stacks of its threads."""
    ended = subprocess.run(
        [sys.executable, "-c", SUSPENDED], capture_output=True, text=True, check=False, timeout=120
    )

    assert ended.returncode == EXIT_STATUS
    assert "process_hung" in ended.stdout
    assert "most recent call first" in ended.stderr
    assert "it goes on" not in ended.stdout


#: A process that has a time limit for its end. A thread can run, so the timer does not end it.
#: The watchdog allows 30 s, so that a busy machine does not trip it.
ENDING = """
import time
from app.runtime import watchdog

watchdog.BEATS, watchdog.SOFT_SHARE = 300, 0.01
watched = watchdog.Watchdog(60, lambda: True)
watched.start()
watched.end_within(100)
time.sleep(60)
print("it goes on")
"""


@pytest.mark.processes
@pytest.mark.measured
def test_process_ends_within_its_limit() -> None:
    """The exit status is 0, and no stacks are written."""
    ended = subprocess.run(
        [sys.executable, "-c", ENDING], capture_output=True, text=True, check=False, timeout=120
    )

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
