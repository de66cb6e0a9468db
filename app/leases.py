"""Keeps the leases of this process's claims alive while their callbacks run.

A lease is short, so that a crash is noticed soon, and a callback may be long. One thread for all
claims renews what is about to end, records results that an outage of the inbox kept back, and looks
for the orphans of other processes. It runs in every serving process from its start.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import structlog

from app import threads
from app.clocks import since_boot
from app.errors import Deferred, StartError, Unavailable
from app.inbox import Claim, Inbox, Suspect
from app.rescuer import Rescuer
from app.watchdog import Watchdog

log = structlog.get_logger(__name__)

#: Turns of the thread in a lease, and the longest turn in seconds.
TURNS = 6
LONGEST_TURN = 1.0

#: The share of a lease after which it is renewed.
RENEW_SHARE = 1 / 3

#: Seconds between two tries of what the inbox could not take.
TRY_AGAIN = 0.5


@dataclass(slots=True)
class _Held:
    """One claim that is held: since when, when its lease last began, when to speak of it."""

    since: float
    renewed: float
    speak_at: float
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

        Raises ``Deferred`` when the claim was lost before: this process was stopped between
        asking for it and this. Raises ``Unavailable`` when that cannot be found out.
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
        if since_boot() > claim.asked_at + self.watchdog.seconds and not self._inbox.renew(claim):
            raise Deferred(
                "the event was taken over by another attempt", reason="claim_lost", retry_after=1
            )

    @property
    def unsettled(self) -> int:
        """How many results wait for the inbox."""
        return len(self._unsettled)

    def settle_later(self, claim: Claim, settle: Callable[[], bool]) -> None:
        """Go on calling ``settle`` until the inbox takes it, and hold the claim until then.

        For the result of a callback that ended while the inbox could not be reached: forgetting
        it would run a callback again that has succeeded.
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
        while not self._closed:
            self._take_turn()
            again = self._failing or bool(self._unsettled)
            self._wake.wait(min(TRY_AGAIN, self._turn) if again else self._turn)
            self._wake.clear()

    def _take_turn(self) -> None:
        """Settle, renew, and look for the orphans of others."""
        self.watchdog.check()
        self._failing = False
        for claim, settle in self._waiting():
            self._try(partial(self._settle, claim, settle))
        for claim, held in self._due():
            self._try(partial(self._renew, claim, held))
        if not self._try(self._rescue):
            self.rescuer.forget()
        if self._said and not self._failing:
            self._said = False
            log.info("inbox_available")

    def _try(self, act: Callable[[], object]) -> bool:
        """Return whether it could be done. What fails must not keep the rest from being tried."""
        try:
            act()
        except (Unavailable, StartError) as error:
            self.say_away(error)
        except Exception:
            self._failing = True
            log.exception("lease_not_renewed")
        else:
            return True
        return False

    def say_away(self, error: Unavailable | StartError) -> None:
        """Log once for each outage of the inbox, not for each claim, what waits for it."""
        self._failing = True
        with self._lock:
            said, self._said = self._said, True
        if not said:
            # A newer version may have changed the tables: this process is to be replaced by one.
            reason = error.reason if isinstance(error, Unavailable) else str(error)
            counts = {"running": len(self._held), "unsettled": len(self._unsettled)}
            event = "lease_not_renewed" if any(counts.values()) else "inbox_unavailable"
            log.warning(event, reason=reason, **counts)

    def _waiting(self) -> list[tuple[Claim, Callable[[], bool]]]:
        with self._lock:
            return list(self._unsettled.items())

    def _settle(self, claim: Claim, settle: Callable[[], bool]) -> None:
        settled = settle()
        with self._lock:
            self._unsettled.pop(claim, None)
            self._held.pop(claim, None)
        log.info("settled_late", **_names(claim), settled=settled)

    def _due(self) -> list[tuple[Claim, _Held]]:
        """Return each claim whose lease is to be renewed, the longest waiting first."""
        due = since_boot() - self._seconds * RENEW_SHARE
        with self._lock:
            held = [each for each in self._held.items() if each[1].renewed <= due]
        held.sort(key=lambda each: each[1].renewed)
        return [(claim, one) for claim, one in held if not one.lost]

    def _renew(self, claim: Claim, held: _Held) -> None:
        started = since_boot()
        if self._inbox.renew(claim):
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
        """Renew what a step of the clock made suspect here, and count what others do not renew."""
        looked_at = time.monotonic()
        with self._lock:
            mine = {claim.token: (claim, held) for claim, held in self._held.items()}
        others: list[Suspect] = []
        for suspect in self.rescuer.look():
            if suspect.token in mine:
                self._renew(*mine[suspect.token])
            else:
                others.append(suspect)
        self.rescuer.count(others, looked_at)
        self.rescuer.watch_clock()

    def decide_suspects(self, say: Callable[[int], object]) -> None:
        """Wait until it is known which of the events whose lease ran out are orphans.

        For a command, which may be the only process. It takes up to the grace of their leases,
        and calls ``say`` with their number before it waits. Raises ``Unavailable``.
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
