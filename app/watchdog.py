"""Ends a process whose threads could not run for so long that others may take its claims.

A callback that holds the interpreter lock in one C call keeps every other thread from running, the
one that renews the leases included. So does a process that is stopped, and a machine that sleeps.
The lease of such a process runs out while its callback goes on, and another process starts the
event beside it. ``faulthandler`` has a timer that needs neither the lock nor a signal handler: it
writes the stacks of all threads to standard error and ends the process.
"""

from __future__ import annotations

import faulthandler
import os
import stat
import threading
from collections.abc import Callable
from contextlib import suppress

import structlog

from app import threads
from app.clocks import since_boot

log = structlog.get_logger(__name__)

#: The longest that no thread may run, as a share of the lease, and its least length in seconds.
#: It is shorter than the grace (``app/inbox/rescue.py``), so this process ends before its claims
#: can be taken, whatever the clocks of the machine and of the database do.
SHARE = 0.5
LEAST_SECONDS = 1.5

#: How often the timer is set anew within that time.
BEATS = 5

STANDARD_ERROR = 2

#: Seconds in which a process that ends itself says so.
SAY_SECONDS = 1.0

#: gunicorn takes 3 and 4 for a start that failed.
EXIT_STATUS = 1


class Watchdog:
    """The timer of this process. It runs only while the process holds claims."""

    def __init__(self, lease_seconds: float, is_needed: Callable[[], bool]) -> None:
        """Take the length of a lease, and what says whether this process holds any."""
        self.seconds = max(SHARE * lease_seconds, LEAST_SECONDS)
        """For how long no thread may run before the process ends."""
        self._is_needed = is_needed
        self._output = STANDARD_ERROR
        self._started = False
        self._beat_at: float | None = None
        """When the timer was set, by ``since_boot``; None while it is not."""
        self._ends = False
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def start(self) -> None:
        """Begin to watch this process: a serving one, since there is one timer in a process."""
        with self._lock:
            if self._started:
                return
            self._started = True
            self._output = _open_standard_error()
        threads.start("watchdog", self._keep)

    def begin(self) -> None:
        """Set the timer, unless it is set: a claim is about to be held."""
        if self._started:
            with self._lock:
                if self._beat_at is None:
                    self._set(self.seconds)

    def check(self) -> None:
        """End this process if it was stopped, or slept, for too long.

        To be called before a claim is made or settled: the timer's own thread may wake up last.
        """
        beat_at = self._beat_at
        if beat_at is not None and since_boot() > beat_at + self.seconds:
            # The line can block, when standard error is not read. The timer cannot.
            faulthandler.dump_traceback_later(SAY_SECONDS, exit=True, file=self._output)
            log.critical("process_hung", seconds=round(since_boot() - beat_at, 1))
            faulthandler.dump_traceback(self._output, all_threads=True)
            os._exit(EXIT_STATUS)

    def end_within(self, seconds: float) -> None:
        """Let this process end after so many seconds at the latest, whatever it does."""
        with self._lock:
            if self._started:
                self._set(seconds)
                self._ends = True

    def close(self) -> None:
        """Stop watching."""
        with self._lock:
            self._closed.set()
            self._unset()
            self._started = False

    def _keep(self) -> None:
        while not self._closed.wait(self.seconds / BEATS):
            self.check()
            with self._lock:
                if self._is_needed():
                    self._set(self.seconds)
                else:
                    self._unset()

    def _set(self, seconds: float) -> None:
        if not self._ends and not self._closed.is_set():
            faulthandler.dump_traceback_later(seconds, exit=True, file=self._output)
            self._beat_at = since_boot()

    def _unset(self) -> None:
        if self._beat_at is not None and not self._ends:
            faulthandler.cancel_dump_traceback_later()
            self._beat_at = None


def _open_standard_error() -> int:
    """Return a descriptor of standard error that does not block, where that can be had.

    A pipe takes no more when its reader has stopped, and a terminal after Ctrl-S.
    """
    with suppress(OSError):  # it can be closed, and not everywhere can it be opened anew
        mode = os.fstat(STANDARD_ERROR).st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
            return os.open(f"/proc/self/fd/{STANDARD_ERROR}", os.O_WRONLY | os.O_NONBLOCK)
    return STANDARD_ERROR
