"""Warnings about refused requests, limited in number.

A client needs no signature to send refused requests without end, and could fill the log. The
warnings name the kind of mistake. They never quote the request, which may hold personal data.
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from http import HTTPMethod

import structlog

#: Warnings for one reason in one interval. Further ones are counted.
LINES = 10

#: The length of an interval in seconds.
SECONDS = 60.0

#: The segments of a path that a warning shows. Others can be a token or hold personal data.
PLAIN_SEGMENT = re.compile(r"[A-Za-z_-]{0,20}|v[12]")

#: The number of segments of a path that a warning shows.
SEGMENTS = 4

METHODS = frozenset(map(str, HTTPMethod))
HIDDEN = "(not shown)"

log = structlog.get_logger(__name__)


class RefusalLog:
    """Limits the warnings about refused requests in one process. All threads may use it."""

    def __init__(self, on_refusal: Callable[[str], object] = lambda _reason: None) -> None:
        """Allow up to ``LINES`` warnings for each reason in ``SECONDS``.

        ``on_refusal`` is called with the reason of each refused request.
        """
        self._on_refusal = on_refusal
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._ends: dict[str, float] = {}

    def write(self, reason: str, **fields: object) -> None:
        """Count a refused request, and log it if ``allows`` permits it."""
        self._on_refusal(reason)
        if self.allows(reason):
            log.warning("request_refused", reason=reason, **fields)

    def allows(self, reason: str) -> bool:
        """Count a warning. Return false if its reason has had its warnings of this interval.

        An interval begins with the first warning of a reason. If some were left out, one line with
        their number ends it.
        """
        self.end_intervals()
        with self._lock:
            self._counts[reason] += 1
            self._ends.setdefault(reason, time.monotonic() + SECONDS)
            return self._counts[reason] <= LINES

    def end_intervals(self) -> None:
        """End the intervals that are over. The server calls this regularly."""
        self._end(time.monotonic())

    def flush(self) -> None:
        """End all intervals. Call it before the process ends."""
        self._end(math.inf)

    def _end(self, now: float) -> None:
        with self._lock:
            over = [reason for reason, end in self._ends.items() if end <= now]
            counts = [(reason, self._counts.pop(reason)) for reason in over]
            for reason in over:
                del self._ends[reason]
        for reason, count in counts:
            if count > LINES:
                log.warning("refusals_left_out", reason=reason, left_out=count - LINES)


def shown_path(path: str) -> str:
    """Return ``path`` as a warning may show it: each other segment is replaced."""
    start, *segments = path.split("/")
    if start or not 1 <= len(segments) <= SEGMENTS:
        return HIDDEN
    return "".join(f"/{each if PLAIN_SEGMENT.fullmatch(each) else HIDDEN}" for each in segments)


def shown_method(method: str) -> str:
    """Return ``method`` as a warning may show it: a client can send any word."""
    return method if method in METHODS else HIDDEN
