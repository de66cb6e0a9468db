"""Keeps the leases of this process's claims alive while their callbacks run.

A lease is short, so that a crash is noticed soon, and a callback may be long. One thread renews the
leases of all claims. It also records results that an outage of the inbox delayed, and looks for the
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
from app.inbox import Claim, Inbox, Suspect
from app.log import output
from app.processing.rescuer import Rescuer
from app.runtime import threads
from app.runtime.clocks import since_boot
from app.runtime.watchdog import Watchdog

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: Turns of the thread in a lease, and the longest turn in seconds.
TURNS = 6
LONGEST_TURN = 1.0

#: The share of a lease after which it is renewed.
RENEW_SHARE = 1 / 3

#: Seconds between two tries of what the inbox could not take.
TRY_AGAIN = 0.5


@dataclass(slots=True)
class _Held:
    """A held claim, by ``since_boot``: its begin, its last renewal, its next line in the log.

    ``tried`` is when the inbox was last asked to renew it alone.
    """

    since: float
    renewed: float
    speak_at: float
    tried: float = 0.0
    lost: bool = False


class Leases:
    """The claims that this process holds."""

    def __init__(self, inbox: Inbox, lease_seconds: float) -> None:
        """Take the ``inbox`` that renews, and for how many seconds one renewal holds."""
        self._inbox = inbox
        self._seconds = lease_seconds
        self._turn = min(lease_seconds / TURNS, LONGEST_TURN)
        self._lock = threading.Lock()
        self._held: dict[Claim, _Held] = {}
        self._unsettled: dict[Claim, Callable[[], bool]] = {}
        self._failing = False
        self._said = False
        self._closed = False
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self.rescuer = Rescuer(inbox, self._turn)
        self.watchdog = Watchdog(lease_seconds, lambda: bool(self._held))

    def start(self) -> None:
        """Start the thread, unless it runs."""
        with self._lock:
            self._start()

    def _start(self) -> None:
        if self._thread is None or not self._thread.is_alive():  # none survives a fork
            self._thread = threads.start("leases", self._keep)

    @contextmanager
    def held(self, claim: Claim) -> Iterator[None]:
        """Renew the lease of ``claim`` until the block is left.

        Raises ``Deferred`` when the claim was lost already, because this process was stopped since
        it asked for it. Raises ``InboxUnavailable`` when the inbox cannot be asked.
        """
        try:
            self._add(claim)
            self._verify(claim)
            yield
        finally:
            with self._lock:
                if claim not in self._unsettled:
                    self._held.pop(claim, None)

    def _add(self, claim: Claim) -> None:
        speak_at = since_boot() + 2 * self._seconds
        with self._lock:
            self._held[claim] = _Held(claim.asked_at, claim.asked_at, speak_at)
            self._start()
        self.watchdog.begin()

    def _verify(self, claim: Claim) -> None:
        if since_boot() > claim.asked_at + self.watchdog.seconds and not self._inbox.claims.renew(
            claim
        ):
            raise Deferred(
                "the event was taken over by another attempt", reason="claim_lost", retry_after=1
            )

    @property
    def unsettled(self) -> int:
        """How many results wait for the inbox."""
        return len(self._unsettled)

    def settle_later(self, claim: Claim, settle: Callable[[], bool]) -> None:
        """Retry ``settle`` until the result is recorded, and hold the claim until then.

        For the result of a callback that ended during an outage of the inbox. Without it a
        callback that succeeded would run again.
        """
        with self._lock:
            self._unsettled[claim] = settle
        self._wake.set()

    def close(self) -> None:
        """End the thread, and with it every lease that is still held."""
        self._closed = True
        self._wake.set()
        if self._thread is not None and self._thread.is_alive():
            self._thread.join()
        self.watchdog.close()

    def _keep(self) -> None:
        with output.never_waiting():  # or its leases would run out while their callbacks go on
            self._keep_on()

    def _keep_on(self) -> None:
        while not self._closed:
            self._take_turn()
            again = self._failing or bool(self._unsettled)
            self._wake.wait(min(TRY_AGAIN, self._turn) if again else self._turn)
            self._wake.clear()

    def _take_turn(self) -> None:
        """Renew, settle, and look for the orphans of others."""
        self.watchdog.check()
        self._failing = False
        due = self._due()
        if due:
            # First all in one statement. One by one, a locked row or a slow inbox would keep the
            # others from being renewed in time.
            claims = [claim for claim, _ in due]
            self._try("lease_not_renewed", partial(self._inbox.claims.renew_all, claims))
        self._try_some("result_not_recorded", self._settle, self._waiting())
        self._try_some("lease_not_renewed", self._renew, due)
        self._try("rescue_failed", self._rescue)
        if self._said and not self._failing:
            self._said = False
            log.info("inbox_available")

    def _try_some(
        self, failed: str, act: Callable[[Claim, T], object], some: Iterable[tuple[Claim, T]]
    ) -> None:
        """Try as many as there is time for: all leases are to be renewed again soon."""
        end = since_boot() + self._turn
        for claim, more in some:
            self._try(failed, partial(act, claim, more), claim)
            if since_boot() > end:
                return

    def _try(self, failed: str, act: Callable[[], object], claim: Claim | None = None) -> None:
        """Call ``act``. Whatever it raises, the rest is still tried.

        An error that is no outage is logged under the name ``failed``.
        """
        try:
            act()
        except (InboxUnavailable, StartError) as error:
            self.say_away(error)
        except Exception:
            self._failing = True
            log.exception(failed, **(_names(claim) if claim else {}))

    def say_away(self, error: InboxUnavailable | StartError) -> None:
        """Log an outage of the inbox once, not for each claim, with what waits for its end."""
        self._failing = True
        with self._lock:
            said, self._said = self._said, True
        if not said:
            # A newer version may have changed the tables: this process is to be replaced by one.
            reason = error.reason if isinstance(error, InboxUnavailable) else str(error)
            counts = {"running": len(self._held), "unsettled": len(self._unsettled)}
            event = "lease_not_renewed" if any(counts.values()) else "inbox_unavailable"
            log.warning(event, reason=reason, **counts)

    def _waiting(self) -> list[tuple[Claim, Callable[[], bool]]]:
        """Return the results that wait for the inbox, the one tried longest ago first."""
        with self._lock:
            return list(self._unsettled.items())

    def _settle(self, claim: Claim, settle: Callable[[], bool]) -> None:
        with self._lock:
            self._unsettled[claim] = self._unsettled.pop(claim)  # it is the last one next time
        settled = settle()
        log.info("settled_late", **_names(claim), settled=settled)  # a stop waits for the rest
        with self._lock:
            self._unsettled.pop(claim, None)
            self._held.pop(claim, None)

    def _due(self) -> list[tuple[Claim, _Held]]:
        """Return each claim whose lease is to be renewed, the one tried longest ago first."""
        due = since_boot() - self._seconds * RENEW_SHARE
        with self._lock:
            held = [each for each in self._held.items() if each[1].renewed <= due]
        held.sort(key=lambda each: each[1].tried)
        return [(claim, one) for claim, one in held if not one.lost]

    def _renew(self, claim: Claim, held: _Held) -> None:
        held.tried = started = since_boot()
        if self._inbox.claims.renew(claim):
            held.renewed = started
        elif self._is_held(claim):
            held.lost = True
            log.warning("lease_lost", **_names(claim))
        if started > held.speak_at:
            held.speak_at = started + 2 * (started - held.since)
            seconds = round(started - held.since)
            log.warning("callback_still_running", **_names(claim), seconds=seconds)

    def _is_held(self, claim: Claim) -> bool:
        with self._lock:
            return claim in self._held

    def _rescue(self) -> None:
        """Renew own leases that a clock step made suspect, and count those of other processes."""
        looked_at = time.monotonic()
        with self._lock:
            # A claim whose answer was lost was asked for again: its token can be on two events.
            held = {(claim.event_id, claim.token): claim for claim in self._held}
        mine: list[Claim] = []
        others: list[Suspect] = []
        for suspect in self.rescuer.look():
            claim = held.get((suspect.event_id, suspect.token))
            if claim is None:
                others.append(suspect)
            else:
                mine.append(claim)
        if mine:
            self._try("lease_not_renewed", partial(self._inbox.claims.renew_all, mine))
        self._try("rescue_failed", partial(self.rescuer.count, others, looked_at))
        self.rescuer.watch_clock()

    def decide_suspects(self, say: Callable[[int], object]) -> None:
        """Wait until each expired lease was renewed, or its event is an orphan.

        For a command, which may be the only process. It takes up to the grace of the leases, and
        calls ``say`` with their number before it waits. Raises ``InboxUnavailable``.
        """
        rescuer = Rescuer(self._inbox, self._turn)
        looked_at = time.monotonic()
        waits = False
        while undecided := rescuer.count(rescuer.look(), looked_at):
            if not waits:
                say(undecided)
                waits = True
            time.sleep(self._turn)
            looked_at = time.monotonic()


def _names(claim: Claim) -> dict[str, object]:
    names = {"event_id": claim.event_id, "event_type": claim.type, "attempt": claim.attempt}
    return names if claim.context is None else {**names, "context": claim.context}
