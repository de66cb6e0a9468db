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
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import structlog

from app.errors import Deferred, InboxUnavailable, StartError
from app.inbox import Claim, Suspect
from app.inbox.claims import Claims
from app.inbox.rescue import Rescue
from app.log import output
from app.processing.rescuer import Rescuer
from app.runtime import threads
from app.runtime.clocks import since_boot
from app.runtime.watchdog import Watchdog

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: The thread works once a turn. A lease has this many turns, of at most this many seconds.
TURNS_PER_LEASE = 6
MAX_TURN_SECONDS = 1.0

#: A lease is renewed after this share of its time.
RENEW_SHARE = 1 / 3

#: Seconds between two tries during an outage of the inbox.
RETRY_SECONDS = 0.5


@dataclass(slots=True)
class _Held:
    """A held claim. Times are by ``since_boot``.

    ``tried`` is the last renewal of this claim alone. ``warn_at`` is when its callback is reported
    as still running.
    """

    since: float
    renewed: float
    warn_at: float
    tried: float = 0.0
    lost: bool = False


class Leases:
    """The claims that this process holds."""

    def __init__(self, claims: Claims, rescue: Rescue, lease_seconds: float) -> None:
        """Take the inbox's APIs for claims and rescue. One renewal lasts ``lease_seconds``."""
        self._claims = claims
        self._rescue = rescue
        self._seconds = lease_seconds
        self._turn = min(lease_seconds / TURNS_PER_LEASE, MAX_TURN_SECONDS)
        self._lock = threading.Lock()
        self._held: dict[Claim, _Held] = {}
        self._unrecorded: dict[Claim, Callable[[], bool]] = {}
        self._failing = False
        self._outage_reported = False
        self._closed = False
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self.rescuer = Rescuer(rescue, self._turn)
        self.watchdog = Watchdog(lease_seconds, lambda: bool(self._held))

    def start(self) -> None:
        """Start the thread, unless it runs."""
        with self._lock:
            self._start()

    def _start(self) -> None:
        if self._thread is None or not self._thread.is_alive():  # a fork ends it in the child
            self._thread = threads.start("leases", self._work)

    @contextmanager
    def held(self, claim: Claim) -> Iterator[None]:
        """Renew the lease of ``claim`` until the end of the block.

        Raises ``Deferred`` when this process was stopped since it asked for the claim, and lost it.
        Raises ``InboxUnavailable`` when the inbox cannot tell.
        """
        try:
            self._add(claim)
            self._verify(claim)
            yield
        finally:
            with self._lock:
                if claim not in self._unrecorded:
                    self._held.pop(claim, None)

    def _add(self, claim: Claim) -> None:
        warn_at = since_boot() + 2 * self._seconds
        with self._lock:
            self._held[claim] = _Held(claim.asked_at, claim.asked_at, warn_at)
            self._start()
        self.watchdog.begin()

    def _verify(self, claim: Claim) -> None:
        is_late = since_boot() > claim.asked_at + self.watchdog.seconds
        if is_late and not self._claims.renew(claim):
            raise claim_lost()

    @property
    def unrecorded(self) -> int:
        """The number of results that the inbox has not recorded yet."""
        return len(self._unrecorded)

    def defer_result(self, claim: Claim, record: Callable[[], bool]) -> None:
        """Call ``record`` until it records the result, and hold the claim until then.

        For a callback that ended during an outage of the inbox: if it succeeded, it must not run
        again.
        """
        with self._lock:
            self._unrecorded[claim] = record
        self._wake.set()

    def close(self) -> None:
        """End the thread. No lease is renewed after that."""
        self._closed = True
        self._wake.set()
        if self._thread is not None and self._thread.is_alive():
            self._thread.join()
        self.watchdog.close()

    def _work(self) -> None:
        with output.never_waiting():  # a blocked standard error must not delay renewals
            while not self._closed:
                self._take_turn()
                is_retrying = self._failing or bool(self._unrecorded)
                self._wake.wait(min(RETRY_SECONDS, self._turn) if is_retrying else self._turn)
                self._wake.clear()

    def _take_turn(self) -> None:
        """Renew leases, record deferred results, and find the orphans of other processes."""
        self.watchdog.check()
        self._failing = False
        due = self._due()
        if due:
            # All in one statement first: one by one, a locked row or a slow inbox would delay the
            # renewals after it.
            claims = [claim for claim, _ in due]
            self._try("lease_not_renewed", partial(self._claims.renew_all, claims))
        self._try_each("result_not_recorded", self._record, self._deferred())
        self._try_each("lease_not_renewed", self._renew, due)
        self._try("rescue_failed", self._find_orphans)
        if self._outage_reported and not self._failing:
            self._outage_reported = False
            log.info("inbox_available")

    def _try_each(
        self, failed: str, act: Callable[[Claim, T], object], items: Iterable[tuple[Claim, T]]
    ) -> None:
        """Call ``act`` for the items until the turn is over: leases must be renewed again soon."""
        end = since_boot() + self._turn
        for claim, item in items:
            self._try(failed, partial(act, claim, item), claim)
            if since_boot() > end:
                return

    def _try(self, failed: str, act: Callable[[], object], claim: Claim | None = None) -> None:
        """Call ``act``, and log what it raises: an outage once, another error as ``failed``."""
        try:
            act()
        except (InboxUnavailable, StartError) as error:
            self.report_outage(error)
        except Exception:
            self._failing = True
            log.exception(failed, **(claim.log_fields() if claim else {}))

    def report_outage(self, error: InboxUnavailable | StartError) -> None:
        """Log an outage of the inbox once, with the number of claims and results that it affects.

        ``StartError``: a newer version of the service has changed the tables, and replaces this
        process.
        """
        self._failing = True
        with self._lock:
            reported, self._outage_reported = self._outage_reported, True
        if not reported:
            reason = error.reason if isinstance(error, InboxUnavailable) else str(error)
            counts = {"running": len(self._held), "unrecorded": len(self._unrecorded)}
            event = "lease_not_renewed" if any(counts.values()) else "inbox_unavailable"
            log.warning(event, reason=reason, **counts)

    def _deferred(self) -> list[tuple[Claim, Callable[[], bool]]]:
        """Return the deferred results, the one tried longest ago first."""
        with self._lock:
            return list(self._unrecorded.items())

    def _record(self, claim: Claim, record: Callable[[], bool]) -> None:
        with self._lock:
            self._unrecorded[claim] = self._unrecorded.pop(claim)  # to the end: tried last
        recorded = record()
        # Logged while the result still counts as unrecorded: a stopping process waits for it.
        log.info("result_recorded_late", **claim.log_fields(), recorded=recorded)
        with self._lock:
            self._unrecorded.pop(claim, None)
            self._held.pop(claim, None)

    def _due(self) -> list[tuple[Claim, _Held]]:
        """Return the claims whose lease is to be renewed, the one tried longest ago first."""
        due = since_boot() - self._seconds * RENEW_SHARE
        with self._lock:
            found = [each for each in self._held.items() if each[1].renewed <= due]
        found.sort(key=lambda each: each[1].tried)
        return [(claim, held) for claim, held in found if not held.lost]

    def _renew(self, claim: Claim, held: _Held) -> None:
        held.tried = started = since_boot()
        if self._claims.renew(claim):
            held.renewed = started
        elif self._is_held(claim):
            held.lost = True
            log.warning("lease_lost", **claim.log_fields())
        if started > held.warn_at:
            held.warn_at = started + 2 * (started - held.since)
            seconds = round(started - held.since)
            log.warning("callback_still_running", **claim.log_fields(), seconds=seconds)

    def _is_held(self, claim: Claim) -> bool:
        with self._lock:
            return claim in self._held

    def _find_orphans(self) -> None:
        """Renew own leases that a clock step made suspect, and count those of other processes."""
        polled_at = time.monotonic()
        with self._lock:
            # By event as well: a claim whose answer was lost was repeated with the same token.
            held = {(claim.event_id, claim.token): claim for claim in self._held}
        mine: list[Claim] = []
        others: list[Suspect] = []
        for suspect in self.rescuer.poll():
            claim = held.get((suspect.event_id, suspect.token))
            if claim is None:
                others.append(suspect)
            else:
                mine.append(claim)
        if mine:
            self._try("lease_not_renewed", partial(self._claims.renew_all, mine))
        self._try("rescue_failed", partial(self.rescuer.measure, others, polled_at))
        self.rescuer.watch_clock()

    def wait_for_orphans(self, on_wait: Callable[[int], object]) -> None:
        """Wait until each expired lease was renewed, or its event is an orphan.

        For a command, which may be the only process. Takes up to the grace of the leases. Calls
        ``on_wait`` with the number of leases before it waits. Raises ``InboxUnavailable``.
        """
        rescuer = Rescuer(self._rescue, self._turn)
        polled_at = time.monotonic()
        is_waiting = False
        while undecided := rescuer.measure(rescuer.poll(), polled_at):
            if not is_waiting:
                on_wait(undecided)
                is_waiting = True
            time.sleep(self._turn)
            polled_at = time.monotonic()


def claim_lost() -> Deferred:
    """Return the error of a claim that another attempt took over."""
    return Deferred(
        "the event was taken over by another attempt", reason="claim_lost", retry_after=1
    )
