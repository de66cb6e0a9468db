"""Keeps the leases of this process's claims alive while their callbacks run.

A lease is short, so that a crash is noticed soon, and a callback may be long. One thread for
all claims renews what is about to end; a callback that is done before that costs nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from app.errors import Unavailable
from app.inbox import Claim, Inbox

log = structlog.get_logger(__name__)

#: Seconds between two tries to settle what the inbox could not take.
SETTLE_AGAIN = 0.5


class Leases:
    """The claims that this process holds."""

    def __init__(self, inbox: Inbox, lease_seconds: float) -> None:
        """Take the ``inbox`` that renews, and for how many seconds one renewal holds."""
        self._inbox = inbox
        self._renew_after = lease_seconds / 3
        self._lock = threading.Lock()
        self._renewed: dict[Claim, float] = {}
        self._unsettled: dict[Claim, Callable[[], bool]] = {}
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def held(self, claim: Claim) -> Iterator[None]:
        """Renew the lease of ``claim`` until the block is left."""
        self._add(claim)
        try:
            yield
        finally:
            with self._lock:
                if claim not in self._unsettled:
                    self._renewed.pop(claim, None)

    def _add(self, claim: Claim) -> None:
        with self._lock:
            self._renewed[claim] = time.monotonic()
            if self._thread is None or not self._thread.is_alive():  # none survives a fork
                self._thread = threading.Thread(target=self._keep, name="leases", daemon=True)
                self._thread.start()

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
            self._forget(claim, settled=settle())

    def _keep(self) -> None:
        while True:
            self._wake.wait(SETTLE_AGAIN if self._unsettled else self._renew_after / 2)
            self._wake.clear()
            self._settle_what_waits()
            self._renew_what_is_due()

    def _renew_what_is_due(self) -> None:
        due = time.monotonic() - self._renew_after
        with self._lock:
            claims = [claim for claim, renewed in self._renewed.items() if renewed <= due]
        for claim in claims:
            self._renew(claim)

    def _renew(self, claim: Claim) -> None:
        started = time.monotonic()
        try:
            renewed = self._inbox.renew(claim)
        except Unavailable as error:  # tried again: there is time for three tries in a lease
            log.warning("lease_not_renewed", **_names(claim), reason=error.reason)
            return
        with self._lock:
            if claim in self._renewed:
                if renewed:
                    self._renewed[claim] = started
                else:
                    del self._renewed[claim]
                    log.warning("lease_lost", **_names(claim))

    def _settle_what_waits(self) -> None:
        with self._lock:
            waiting = list(self._unsettled.items())
        for claim, settle in waiting:
            try:
                settled = settle()
            except Unavailable:
                continue
            self._forget(claim, settled=settled)

    def _forget(self, claim: Claim, *, settled: bool) -> None:
        with self._lock:
            self._unsettled.pop(claim, None)
            self._renewed.pop(claim, None)
        log.info("settled_late", **_names(claim), settled=settled)


def _names(claim: Claim) -> dict[str, object]:
    return {"event_id": claim.event_id, "event_type": claim.type, "attempt": claim.attempt}
