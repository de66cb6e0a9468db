"""Renews the leases of this process's claims while their callbacks run.

A lease is short, so that a crash is detected soon. A callback may take longer. One thread renews
the leases of all claims. It also records results that an outage of the inbox delayed, and finds the
orphans of other processes. It runs in every serving process from its start.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import structlog

from app.errors import Deferred, InboxUnavailable
from app.inbox import Claim
from app.log import output
from app.processing.deferred_results import DeferredResults
from app.processing.held_claims import HeldClaims
from app.processing.outages import Outages
from app.processing.rescuer import Rescuer
from app.runtime import threads
from app.runtime.clocks import since_boot
from app.runtime.watchdog import Watchdog

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: The thread works once a tick. A lease has this many ticks, of at most this many seconds.
TICKS_PER_LEASE = 6
MAX_TICK_SECONDS = 1.0

#: Seconds between two tries during an outage of the inbox.
RETRY_SECONDS = 0.5


def tick_seconds_of(lease_seconds: float) -> float:
    """Return the seconds between two ticks of the lease thread."""
    return min(lease_seconds / TICKS_PER_LEASE, MAX_TICK_SECONDS)


class Leases:
    """The lease thread of this process, and its order of work."""

    def __init__(  # noqa: PLR0913 - the parts, each named
        self,
        held: HeldClaims,
        deferred: DeferredResults,
        rescuer: Rescuer,
        *,
        outages: Outages,
        watchdog: Watchdog,
        tick_seconds: float,
    ) -> None:
        """Take the parts whose work the thread does every ``tick_seconds``."""
        self._held = held
        self._deferred = deferred
        self._rescuer = rescuer
        self._outages = outages
        self._watchdog = watchdog
        self._tick_seconds = tick_seconds
        self._lock = threading.Lock()
        self._closed = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread, unless it runs."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():  # a fork ends it in the child
                self._thread = threads.start("leases", self._work)

    @contextmanager
    def renewing(self, claim: Claim) -> Iterator[None]:
        """Renew the lease of ``claim`` until the end of the block, or until its result is recorded.

        Raises ``Deferred`` when this process was stopped since it asked for the claim, and lost it.
        Raises ``InboxUnavailable`` when the inbox cannot tell.
        """
        try:
            self._held.add(claim)
            self.start()
            self._watchdog.begin()
            self._verify(claim)
            yield
        finally:
            if claim not in self._deferred:
                self._held.remove(claim)

    def _verify(self, claim: Claim) -> None:
        is_late = since_boot() > claim.asked_at + self._watchdog.seconds
        if is_late and not self._held.confirm(claim):
            raise claim_lost()

    def close(self) -> None:
        """End the thread. No lease is renewed after that."""
        self._closed = True
        self._deferred.wake()
        if self._thread is not None and self._thread.is_alive():
            self._thread.join()
        self._watchdog.close()

    def _work(self) -> None:
        with output.never_waiting():  # a blocked standard error must not delay renewals
            while not self._closed:
                self._tick()
                is_retrying = self._outages.is_failing or bool(self._deferred)
                longest = RETRY_SECONDS if is_retrying else self._tick_seconds
                self._deferred.wait(min(longest, self._tick_seconds))

    def _tick(self) -> None:
        """Renew leases, record deferred results, and find the orphans of other processes."""
        self._watchdog.check()
        self._outages.begin_tick()
        due = self._held.due()
        if due:
            # All in one statement first: one by one, a locked row or a slow inbox would delay the
            # renewals after it.
            claims = [claim for claim, _ in due]
            self._try("lease_not_renewed", partial(self._held.renew_all, claims))
        self._try_each("result_not_recorded", self._record, self._deferred.oldest_first())
        self._try_each("lease_not_renewed", self._held.renew, due)
        self._try("rescue_failed", self._find_orphans)
        self._outages.end_tick()

    def _try_each(
        self, failed: str, act: Callable[[Claim, T], object], items: Iterable[tuple[Claim, T]]
    ) -> None:
        """Call ``act`` for the items until the tick is over: leases must be renewed again soon."""
        end = since_boot() + self._tick_seconds
        for claim, item in items:
            self._try(failed, partial(act, claim, item), claim)
            if since_boot() > end:
                return

    def _try(self, failed: str, act: Callable[[], object], claim: Claim | None = None) -> None:
        """Call ``act``, and log what it raises: an outage once, another error as ``failed``."""
        try:
            act()
        except InboxUnavailable as error:
            self._outages.report(error)
        except Exception:
            self._outages.note_failure()
            log.exception(failed, **(claim.log_fields() if claim else {}))

    def _record(self, claim: Claim, record: Callable[[], bool]) -> None:
        self._deferred.record(claim, record)
        self._held.remove(claim)

    def _find_orphans(self) -> None:
        """Renew own expired leases. Add the time that others stayed unrenewed. Watch the clock."""
        polled_at = time.monotonic()
        held = self._held.by_token()
        suspects = {(each.event_id, each.token): each for each in self._rescuer.poll()}
        own = [held[key] for key in suspects if key in held]
        others = [each for key, each in suspects.items() if key not in held]
        if own:
            self._try("lease_not_renewed", partial(self._held.renew_all, own))
        self._try("rescue_failed", partial(self._rescuer.measure, others, polled_at))
        self._rescuer.watch_clock()


def claim_lost() -> Deferred:
    """Return the error of a claim that another attempt took over."""
    return Deferred(
        "the event was taken over by another attempt", reason="claim_lost", retry_after=1
    )
