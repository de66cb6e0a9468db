"""Ends a hung process before its claims can be rescued.

A C call that holds the GIL keeps every other thread from running, the one that renews the leases
included. So does a signal that stops the process, or a machine that is suspended. The lease then
runs out while the callback goes on, and another process would start the event beside it.

``faulthandler`` has a timer that needs neither the GIL nor a signal handler. It writes the stacks
of all threads to standard error and ends the process.
"""

from __future__ import annotations

import faulthandler
import os
import stat
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import NoReturn

import structlog

from app.runtime import threads
from app.runtime.clocks import since_boot

log = structlog.get_logger(__name__)

#: The longest time in which no thread runs, as a share of the lease, and its minimum in seconds.
#: Shorter than the grace (``app/inbox/sql/rescue.py``), so that this process ends before its claims
#: can be rescued, even when a clock steps.
SHARE = 0.5
LEAST_SECONDS = 1.5

#: How often the timer is reset within that time.
BEATS = 5

#: The share of the seconds of ``end_within`` after which a thread ends the process.
SOFT_SHARE = 0.8

STANDARD_ERROR = 2

#: Seconds in which a process that ends itself says so.
SAY_SECONDS = 1.0

#: gunicorn takes 3 and 4 for a start that failed.
EXIT_STATUS = 1


class Watchdog:
    """The timer of this process. It runs only while the process holds claims."""

    def __init__(self, lease_seconds: float, is_needed: Callable[[], bool]) -> None:
        """Take the length of a lease in seconds, and a function: true while claims are held."""
        self.seconds = max(SHARE * lease_seconds, LEAST_SECONDS)
        """Seconds without a running thread after which the process ends."""
        self._is_needed = is_needed
        self._output = STANDARD_ERROR
        self._started = False
        self._beat_at: float | None = None
        """When the timer was set, by ``since_boot``; None while it is not."""
        self._ends = False
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def start(self) -> None:
        """Begin to watch. Only a process that runs callbacks may: a process has one such timer."""
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
        """End this process after so many ``seconds`` at the latest, even if it hangs.

        It exits with 0 if one of its threads can run, else with the stacks of all threads.
        """
        with self._lock:
            if not self._started:
                return
            self._set(seconds)
            self._ends = True
        threads.start("end", partial(_end_after, seconds * SOFT_SHARE))

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


def _end_after(seconds: float) -> NoReturn:
    time.sleep(seconds)
    os._exit(0)


def _open_standard_error() -> int:
    """Return a descriptor of standard error that does not block, where that can be had.

    A pipe takes no more when its reader has stopped, and a terminal after Ctrl-S.
    """
    with suppress(OSError):  # it can be closed, and not everywhere can it be opened anew
        mode = os.fstat(STANDARD_ERROR).st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
            return os.open(f"/proc/self/fd/{STANDARD_ERROR}", os.O_WRONLY | os.O_NONBLOCK)
    return STANDARD_ERROR
