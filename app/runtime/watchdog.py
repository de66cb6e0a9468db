"""Ends a hung process before its claims can be rescued.

No thread runs while a C call holds the GIL, while a signal has stopped the process, or while the
machine is suspended. Leases then expire although their callbacks continue, and another process
would run the event at the same time.

The timer of ``faulthandler`` needs neither the GIL nor a signal handler. It writes the stacks of
all threads to standard error and ends the process.
"""

from __future__ import annotations

import faulthandler
import os
import stat
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from typing import NoReturn

import structlog

from app.runtime import threads
from app.runtime.clocks import since_boot

log = structlog.get_logger(__name__)

#: The process ends when no thread has run for this share of a lease, but for ``MIN_SECONDS`` at
#: least. That is shorter than the grace (``app/inbox/sql/rescue.py``), so that the process ends
#: before its claims can be rescued, even when a clock steps.
LEASE_SHARE = 0.5
MIN_SECONDS = 1.5

#: How often the timer is reset within that time.
BEATS = 5

#: After this share of the seconds of ``end_within`` a thread ends the process. On a busy machine
#: the thread can be late by tenths of a second.
SOFT_SHARE = 0.6

STANDARD_ERROR = 2

#: The maximum time in seconds to log that the process hung.
LOG_SECONDS = 1.0

#: Not 3 or 4, with which gunicorn reports a failed start.
EXIT_STATUS = 1


class Watchdog:
    """The timer of this process. It runs while the process holds claims."""

    def __init__(
        self,
        lease_seconds: float,
        is_needed: Callable[[], bool],
        write_directly: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """Take the length of a lease, and a function that returns whether claims are held.

        In the block that ``write_directly`` returns, each line of the log is written at once.
        """
        self.seconds = max(LEASE_SHARE * lease_seconds, MIN_SECONDS)
        """The process ends when no thread has run for this many seconds."""
        self._is_needed = is_needed
        self._write_directly = write_directly
        self._output = STANDARD_ERROR
        self._started = False
        self._beat_at: float | None = None
        """When the timer was set, by ``since_boot``. None while it is not set."""
        self._ends = False
        self._lock = threading.Lock()
        self._ending = threading.Lock()
        self._closed = threading.Event()

    def start(self) -> None:
        """Start watching, in a process that runs callbacks. A process has one such timer."""
        with self._lock:
            if self._started:
                return
            self._started = True
            self._output = _open_standard_error()
        threads.start("watchdog", self._keep)

    def begin(self) -> None:
        """Set the timer unless it is set. Called before a claim is held."""
        if self._started:
            with self._lock:
                if self._beat_at is None:
                    self._set(self.seconds)

    def check(self) -> None:
        """End this process if it was stopped or suspended for too long.

        Call it before claiming an event and before recording a result. The timer's own thread may
        wake up too late for that.
        """
        beat_at = self._beat_at
        if beat_at is not None and since_boot() > beat_at + self.seconds:
            with (
                self._ending,
                self._write_directly(),
            ):  # no other thread ends it before the line is out
                # A line blocks while standard error is not read. The timer does not.
                faulthandler.dump_traceback_later(LOG_SECONDS, exit=True, file=self._output)
                log.critical("process_hung", seconds=round(since_boot() - beat_at, 1))
                faulthandler.dump_traceback(self._output, all_threads=True)
                os._exit(EXIT_STATUS)

    def end_within(self, seconds: float) -> None:
        """End this process within ``seconds``, even if it hangs.

        Its exit status is 0 if a thread can run. Otherwise it writes the stacks of all threads.
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
    """Return a non-blocking descriptor of standard error, where the system has one.

    A pipe blocks when its reader has stopped, and a terminal after Ctrl-S.
    """
    with suppress(OSError):  # it may be closed, and not every system can reopen it
        mode = os.fstat(STANDARD_ERROR).st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
            return os.open(f"/proc/self/fd/{STANDARD_ERROR}", os.O_WRONLY | os.O_NONBLOCK)
    return STANDARD_ERROR
