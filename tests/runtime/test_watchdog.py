"""The watchdog's thread. Tests with real servers show how it ends a process."""

from __future__ import annotations

import threading

from app.runtime.watchdog import Watchdog
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
