"""Counts what this process does, for Prometheus and for the activity counters of the inbox.

A process that serves no metrics does not load the library of Prometheus. It still counts for the
inbox.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from app.errors import InboxUnavailable
from app.inbox import Inbox
from app.metrics.counts import Counts
from app.runtime.process_name import new_process_name
from app.states import NOT_RUN, Outcome

if TYPE_CHECKING:
    from app.metrics.exposition import Exposition
    from app.metrics.series import Series

#: The label of every event type without a handler module, so that labels are bounded.
OTHER = "other"

#: Seconds between two flushes. SIGKILL loses the counts of the inbox since the last one.
FLUSH_SECONDS = 5.0


class Meter:
    """The counters of this process. All threads may use it."""

    def __init__(
        self, inbox: Inbox, handled: Callable[[], Iterable[str]], release: str = ""
    ) -> None:
        """Take the ``inbox``, and a function that returns the event types with a handler module.

        ``release`` is the one of the code.
        """
        self._release = release
        self._inbox = inbox
        self._handled = handled
        self.busy_and_idle: Callable[[], tuple[int, int]] = lambda: (0, 0)
        """Returns the numbers of worker threads that run an event, and that wait for one."""
        self._process = ""
        self._has_threads = False
        """True if the inbox has worker threads of this process."""
        self._types: frozenset[str] = frozenset()
        self._counts = Counts()
        self._lock = threading.Lock()
        self._exposition: Exposition | None = None
        self._series: Series | None = None

    def start(self, folder: Path | None = None) -> Exposition:
        """Count for Prometheus too, from now on. Returns what ``/metrics`` shows.

        Call it after the fork of a worker process. The processes of one ``folder`` show their sums.
        A second call changes nothing.
        """
        with self._lock:
            if self._exposition is None:
                from app.metrics.exposition import Exposition  # noqa: PLC0415 - loads the library

                self._types = frozenset(self._handled())
                read, refresh = self._inbox.gauges, self._show_threads
                self._exposition = Exposition(folder, read, refresh, self._release)
                self._series = self._exposition.series
            return self._exposition

    def delivery(
        self, outcome: Outcome, event_type: str | None, seconds: float, secret: int | None
    ) -> None:
        """Count a delivery that was answered after ``seconds``.

        ``secret`` is the position of the signing secret, None if the signature is not valid.
        """
        self._counts.add("delivery", outcome)
        if secret is not None:
            self._counts.add("secret", str(secret))
        if self._series is not None:
            self._series.delivery(outcome, self._label(event_type), seconds)

    def rejection(self, reason: str) -> None:
        """Count a rejected request. ``reason`` is one of a fixed set of words."""
        self._counts.add("rejection", reason)
        if self._series is not None:
            self._series.rejection(reason)

    def attempt(self, event_type: str, outcome: Outcome, seconds: float) -> None:
        """Count an attempt that ended after ``seconds``. A twin has called no callback."""
        if outcome in NOT_RUN:
            self._not_run(event_type, outcome, 1)
            return
        self._counts.add("attempt", outcome)
        if self._series is not None:
            self._series.attempt(self._label(event_type), outcome, seconds)

    def superseded(self, event_type: str, number: int) -> None:
        """Count events that became done because a newer one of their object runs."""
        self._not_run(event_type, Outcome.SUPERSEDED, number)

    def _not_run(self, event_type: str, outcome: Outcome, number: int) -> None:
        self._counts.add("attempt", outcome, number)
        if self._series is not None:
            self._series.not_run(self._label(event_type), outcome, number)

    def stripe_request(self, status: str) -> None:
        """Count a request to Stripe's API by its HTTP status, or ``error`` if it got no answer."""
        if self._series is not None:
            self._series.stripe_request(status)

    def rate_limit_wait(self, seconds: float) -> None:
        """Count a request that waited ``seconds`` for the rate limiter."""
        if self._series is not None:
            self._series.rate_limit_wait(seconds)

    def lease_lost(self) -> None:
        """Count a claim that another attempt took over."""
        if self._series is not None:
            self._series.lease_lost()

    def reconcile_missing(self, number: int) -> None:
        """Count events that Stripe had and the inbox lacked."""
        if self._series is not None:
            self._series.reconcile_missing(number)

    def flush(self) -> None:
        """Add the counts since the last flush to those of the inbox, with the worker threads.

        Call it every few seconds, and before the process ends. During an outage of the inbox, the
        counts wait for the next flush.
        """
        self._show_threads()
        rows = self._counts.take()
        try:
            self._record_threads()
            self._inbox.activity.add(rows)
        except InboxUnavailable:  # another thread logs the outage, once
            self._counts.put_back(rows)

    def _record_threads(self) -> None:
        threads = self.busy_and_idle()
        if any(threads) or self._has_threads:
            # Not before: no name survives a fork.
            self._process = self._process or new_process_name()
            self._inbox.activity.show_threads(self._process, *threads)
            self._has_threads = any(threads)

    def _show_threads(self) -> None:
        if self._series is not None:
            self._series.worker_threads(*self.busy_and_idle())

    def _label(self, event_type: str | None) -> str:
        return event_type if event_type in self._types else OTHER
