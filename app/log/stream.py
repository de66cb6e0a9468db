"""The stream of all log lines: standard error."""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

from app.runtime import threads

#: The maximum number of lines that wait for a blocked standard error. Further ones are lost.
MAX_WAITING = 1000


class StandardError:
    """Writes whole lines to the standard error that ``take`` found.

    It does not look up ``sys.stderr`` for each line: ``contextlib.redirect_stderr`` replaces it for
    all threads, and two overlapping uses can leave a closed stream, or None. One write per line, so
    that lines of several processes do not mix.
    """

    def __init__(self) -> None:
        """Write nothing yet: call ``take``."""
        self._stream: Any = None
        self._spare = -1
        self._local = threading.local()

    def take(self) -> None:
        """Write to the present standard error from now on."""
        self._stream = sys.stderr  # None in a process that was started without one
        # A copy, because descriptor 2 itself can be closed, and then be given to a connection.
        with contextlib.suppress(OSError):
            self._spare = (
                os.dup(2) if self._spare < 0 else os.dup2(2, self._spare, inheritable=False)
            )

    @property
    def is_terminal(self) -> bool:
        """Whether the stream is a terminal."""
        with contextlib.suppress(Exception):
            return bool(self._stream.isatty())
        return False

    def msg(self, message: str) -> None:
        """Write one line."""
        self.write(message + "\n")

    debug = info = warning = error = critical = exception = fatal = log = msg

    @contextlib.contextmanager
    def never_waiting(self) -> Iterator[None]:
        """Let another thread write the lines of this thread until the end of the block.

        A pipe or a terminal whose reader has stopped blocks every thread that writes to it. When
        ``MAX_WAITING`` lines wait, further ones are lost.
        """
        lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        with contextlib.suppress(RuntimeError, MemoryError):  # without a thread: it may block
            threads.start("log", partial(self._write_all, lines))
            self._local.lines = lines
        try:
            yield
        finally:
            self._local.lines = None
            lines.put(None)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Write the lines of this thread at once in the block, even inside ``never_waiting``."""
        lines, self._local.lines = getattr(self._local, "lines", None), None
        try:
            yield
        finally:
            self._local.lines = lines

    def _write_all(self, lines: queue.SimpleQueue[str | None]) -> None:
        while (text := lines.get()) is not None:
            self._write(text)

    def write(self, text: str) -> None:
        """Write ``text``. Raises nothing: a full disk or a closed pipe must not fail a delivery."""
        lines = getattr(self._local, "lines", None)
        if lines is None:
            self._write(text)
        elif lines.qsize() < MAX_WAITING:
            lines.put(text)

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except Exception:  # noqa: BLE001 - the stream can be any object, and closed
            with contextlib.suppress(OSError):
                os.write(self._spare, text.encode("utf-8", "replace"))


#: The stream of this process. ``configure`` calls ``take``.
output = StandardError()
