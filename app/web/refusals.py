"""Warnings about refused requests, limited in number.

A client needs no signature to send malformed requests without end, and could fill the log. The
warnings name the kind of mistake. They never quote the request, which may hold personal data.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter

import structlog

#: Warnings for one reason in one interval. Further ones are counted.
LINES = 10

#: The length of an interval in seconds.
SECONDS = 60.0

#: The paths that a warning shows. Others can hold an e-mail address, a token, or anything else.
PLAIN_PATH = re.compile(r"(?:/[A-Za-z0-9_.-]{0,32}){1,4}")

log = structlog.get_logger(__name__)


class RefusalLog:
    """Logs the refused requests of one process. It belongs to the thread of the event loop."""

    def __init__(self, seconds: float = SECONDS) -> None:
        """Log up to ``LINES`` warnings for each reason in ``seconds``."""
        self._seconds = seconds
        self._counts: Counter[str] = Counter()

    def write(self, reason: str, **fields: object) -> None:
        """Log a refused request, unless its reason has had its warnings of this interval.

        An interval begins with the first warning of a reason. If some were left out, one line with
        their number ends it.
        """
        self._counts[reason] += 1
        if self._counts[reason] == 1:
            asyncio.get_running_loop().call_later(self._seconds, self._end_interval, reason)
        if self._counts[reason] <= LINES:
            log.warning("request_refused", reason=reason, **fields)

    def flush(self) -> None:
        """Log the number of warnings that were left out so far. Call it before the process ends."""
        for reason in list(self._counts):
            self._end_interval(reason)

    def _end_interval(self, reason: str) -> None:
        left_out = self._counts.pop(reason, 0) - LINES
        if left_out > 0:
            log.warning("refusals_left_out", reason=reason, left_out=left_out)


def shown_path(path: str) -> str:
    """Return ``path`` as a warning may show it."""
    return path if PLAIN_PATH.fullmatch(path) else "(not shown)"
