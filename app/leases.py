"""Keeps the leases of this process's claims alive while their callbacks run.

A lease is short, so that a crash is noticed soon, and a callback may be long. One thread for
all claims renews what is about to end; a callback that is done before that costs nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import structlog

from app.errors import Unavailable
from app.inbox import Claim, Inbox

log = structlog.get_logger(__name__)

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
        self.seconds = lease_seconds
        """For how many seconds one renewal holds."""
        self._lock = threading.Lock()
        self._held: dict[Claim, _Held] = {}
        self._unsettled: dict[Claim, Callable[[], bool]] = {}
        self._failing = False
        self._said = False
        self._closed = False
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def held(self, claim: Claim) -> Iterator[None]:
        """Renew the lease of ``claim`` until the block is left."""
        try:
            self._add(claim)
            yield
        finally:
            with self._lock:
                if claim not in self._unsettled:
                    self._held.pop(claim, None)

    def _add(self, claim: Claim) -> None:
        now = time.monotonic()
        with self._lock:
            self._held[claim] = _Held(now, now, speak_at=now + 2 * self.seconds)
            if self._thread is None or not self._thread.is_alive():  # none survives a fork
                self._thread = threading.Thread(target=self._keep, name="leases", daemon=True)
                self._thread.start()

    def holds(self, event_id: str) -> bool:
        """Whether a callback for this event still runs here, under a claim that may be lost."""
        with self._lock:
            return any(claim.event_id == event_id for claim in self._held)

    def are_behind(self) -> bool:
        """Whether a lease may have ended that this process has not lost yet, or a result waits.

        Who claims now could get an event that still runs here, or that has succeeded here.
        """
        ended = time.monotonic() - self.seconds
        with self._lock:
            late = any(each.renewed < ended for each in self._held.values() if not each.lost)
            return late or bool(self._unsettled)

    @property
    def unsettled(self) -> int:
        """How many results wait for the inbox."""
        return len(self._unsettled)

    def settle_later(self, claim: Claim, settle: Callable[[], bool]) -> None:
        """Go on calling ``settle`` until the inbox takes it, and hold the claim until then.

        For the result of a callback that ran while the inbox could not be reached: forgetting
        it would run a callback again that has succeeded.
        """
        with self._lock:
            self._unsettled[claim] = settle
        self._wake.set()

    def settle_first(self, event_id: str) -> None:
        """Settle what waits for this event before anybody claims it.

        When the inbox was away for longer than a lease, the event could be claimed again: its
        success is known here and nowhere else. Raises ``Unavailable`` while it still is.
        """
        if not self._unsettled:
            return
        with self._lock:
            waiting = [each for each in self._unsettled.items() if each[0].event_id == event_id]
        for claim, settle in waiting:
            self._settle(claim, settle)

    def close(self) -> None:
        """End the thread, and with it every lease that is still held."""
        self._closed = True
        self._wake.set()
        if self._thread is not None and self._thread.is_alive():
            self._thread.join()

    def _keep(self) -> None:
        self._try(self._inbox.check)  # connect now: under load there may be no connection left
        while not self._closed:
            self._wake.wait(TRY_AGAIN if self._failing or self._unsettled else self._pause())
            self._wake.clear()
            self._failing = False
            for settle in self._waiting():
                self._try(settle)
            for renew in self._due():
                self._try(renew)
            self._said = self._said and self._failing

    def _pause(self) -> float:
        return self.seconds / 6

    def _try(self, act: Callable[[], object]) -> None:
        try:
            act()
        except Unavailable as error:
            self._failing = True
            self._say_away(error)
        except (Exception, SystemExit):  # whatever it is, ending this thread would end every lease
            self._failing = True
            log.exception("lease_not_renewed")

    def _say_away(self, error: Unavailable) -> None:
        """Say once for each time that the inbox is away, not for each claim, what waits for it."""
        if not self._said:
            self._said = True
            counts = {"running": len(self._held), "unsettled": len(self._unsettled)}
            log.warning("lease_not_renewed", reason=error.reason, **counts)

    def _waiting(self) -> list[Callable[[], None]]:
        with self._lock:
            waiting = list(self._unsettled.items())
        return [partial(self._settle, claim, settle) for claim, settle in waiting]

    def _settle(self, claim: Claim, settle: Callable[[], bool]) -> None:
        settled = settle()
        with self._lock:
            self._unsettled.pop(claim, None)
            self._held.pop(claim, None)
        log.info("settled_late", **_names(claim), settled=settled)

    def _due(self) -> list[Callable[[], None]]:
        """Return a renewal for each claim of which a third has gone, the longest waiting first."""
        due = time.monotonic() - self.seconds / 3
        with self._lock:
            held = [each for each in self._held.items() if each[1].renewed <= due]
        held.sort(key=lambda each: each[1].renewed)
        return [partial(self._renew, claim, one) for claim, one in held if not one.lost]

    def _renew(self, claim: Claim, held: _Held) -> None:
        started = time.monotonic()
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


def _names(claim: Claim) -> dict[str, object]:
    names = {"event_id": claim.event_id, "event_type": claim.type, "attempt": claim.attempt}
    return names if claim.context is None else {**names, "context": claim.context}
