"""Results that wait until the inbox can record them.

A callback can end during an outage of the inbox. If it succeeded, it must not run again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from app.inbox import Claim

log = structlog.get_logger(__name__)


class DeferredResults:
    """The results that the inbox has not recorded yet. ``len`` is their number.

    Results are added in any thread, and recorded in the lease thread.
    """

    def __init__(self) -> None:
        """Begin without a result."""
        self._lock = threading.Lock()
        self._records: dict[Claim, Callable[[], bool]] = {}
        self._woken = threading.Event()

    def __len__(self) -> int:
        """Return the number of results."""
        return len(self._records)

    def __contains__(self, claim: Claim) -> bool:
        """Return whether the result of ``claim`` waits."""
        return claim in self._records

    def add(self, claim: Claim, record: Callable[[], bool]) -> None:
        """Call ``record`` until it records the result, and hold the ``claim`` until then."""
        with self._lock:
            self._records[claim] = record
        self.wake()

    def oldest_first(self) -> list[tuple[Claim, Callable[[], bool]]]:
        """Return the results, the one tried longest ago first."""
        with self._lock:
            return list(self._records.items())

    def record(self, claim: Claim, record: Callable[[], bool]) -> None:
        """Try to record one result. Raises what ``record`` raises."""
        with self._lock:
            self._records[claim] = self._records.pop(claim)  # to the end: tried last
        recorded = record()
        # Logged while the result still counts as unrecorded: a stopping process waits for it.
        log.info("result_recorded_late", **claim.log_fields(), recorded=recorded)
        with self._lock:
            self._records.pop(claim, None)

    def wait(self, seconds: float) -> None:
        """Wait until a result is added, or until ``wake``, for up to ``seconds``."""
        self._woken.wait(seconds)
        self._woken.clear()

    def wake(self) -> None:
        """End a ``wait``."""
        self._woken.set()
