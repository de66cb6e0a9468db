"""The activity counts of this process that the inbox does not have yet."""

from __future__ import annotations

import threading
import time

from app.inbox.activity import Activity, period_of

#: The maximum number of counters. An outage of the inbox for a day fills about half of them.
MAX_COUNTERS = 10_000


class Counts:
    """Counts in memory, by kind, name and period. All threads may use it."""

    def __init__(self) -> None:
        """Begin with no count."""
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str, int], tuple[int, float]] = {}

    def add(self, kind: str, name: str, number: int = 1) -> None:
        """Count ``number`` more."""
        now = time.time()
        self._add(kind, name, number, now)

    def _add(self, kind: str, name: str, number: int, at: float) -> None:
        key = (kind, name, period_of(at))
        with self._lock:
            before, last = self._counts.get(key, (0, at))
            if before or len(self._counts) < MAX_COUNTERS:
                self._counts[key] = (before + number, max(last, at))

    def take(self) -> list[Activity]:
        """Return all counts, and begin again with none."""
        with self._lock:
            taken, self._counts = self._counts, {}
        return [
            Activity(kind, str(name), bucket, number, last_at)
            for (kind, name, bucket), (number, last_at) in taken.items()
        ]

    def put_back(self, rows: list[Activity]) -> None:
        """Add counts that ``take`` returned."""
        for row in rows:
            self._add(row.kind, row.name, row.number, row.last_at)
