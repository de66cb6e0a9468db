"""Logs each outage of the inbox once, and its end."""

from __future__ import annotations

import threading

import structlog

from app.errors import InboxUnavailable
from app.processing.deferred_results import DeferredResults
from app.processing.held_claims import HeldClaims

log = structlog.get_logger(__name__)


class Outages:
    """The outages of the inbox, as all threads of this process see them."""

    def __init__(self, held: HeldClaims, deferred: DeferredResults) -> None:
        """Take the claims and the results that an outage affects. Their numbers are logged."""
        self._held = held
        self._deferred = deferred
        self._lock = threading.Lock()
        self._is_reported = False
        self.is_failing = False
        """True if there was an error since ``begin_tick``."""

    def report(self, error: InboxUnavailable) -> None:
        """Log an outage, unless it was logged."""
        self.note_failure()
        with self._lock:
            reported, self._is_reported = self._is_reported, True
        if not reported:
            counts = {"running": len(self._held), "unrecorded": len(self._deferred)}
            event = "lease_not_renewed" if any(counts.values()) else "inbox_unavailable"
            log.warning(event, reason=error.reason, **counts)

    def note_failure(self) -> None:
        """Note an error of this tick."""
        self.is_failing = True

    def begin_tick(self) -> None:
        """Expect no error in this tick of the lease thread."""
        self.is_failing = False

    def end_tick(self) -> None:
        """Log that the inbox is available, if an outage was reported and this tick had no error."""
        if self._is_reported and not self.is_failing:
            self._is_reported = False
            log.info("inbox_available")
