"""The claims that this process holds, and the renewal of their leases."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from app.inbox import Claim
from app.inbox.claims import Claims
from app.runtime.clocks import since_boot

log = structlog.get_logger(__name__)

#: A lease is renewed after this share of its time.
RENEW_SHARE = 1 / 3


@dataclass(slots=True)
class Held:
    """A held claim. Times are by ``since_boot``.

    ``tried`` is the last renewal of this claim alone. ``warn_at`` is when its callback is reported
    as still running.
    """

    since: float
    renewed: float
    warn_at: float
    tried: float = 0.0
    lost: bool = False


class HeldClaims:
    """The claims whose leases this process renews. Its methods may be called in any thread."""

    def __init__(self, claims: Claims, lease_seconds: float, on_lost: Callable[[], object]) -> None:
        """Take the inbox's API for claims. One renewal lasts ``lease_seconds``.

        ``on_lost`` is called when another attempt took over a claim.
        """
        self._claims = claims
        self._seconds = lease_seconds
        self._lock = threading.Lock()
        self._held: dict[Claim, Held] = {}
        self._on_lost = on_lost

    def __len__(self) -> int:
        """Return the number of claims."""
        return len(self._held)

    def add(self, claim: Claim) -> None:
        """Hold the ``claim``."""
        warn_at = since_boot() + 2 * self._seconds
        with self._lock:
            self._held[claim] = Held(claim.asked_at, claim.asked_at, warn_at)

    def remove(self, claim: Claim) -> None:
        """Hold the ``claim`` no longer."""
        with self._lock:
            self._held.pop(claim, None)

    def confirm(self, claim: Claim) -> bool:
        """Renew the lease of a claim that may be lost. False if another attempt has the event.

        Raises ``InboxUnavailable``.
        """
        return self._claims.renew(claim)

    def due(self) -> list[tuple[Claim, Held]]:
        """Return the claims whose lease is to be renewed, the one tried longest ago first."""
        due = since_boot() - self._seconds * RENEW_SHARE
        with self._lock:
            found = [each for each in self._held.items() if each[1].renewed <= due]
        found.sort(key=lambda each: each[1].tried)
        return [(claim, held) for claim, held in found if not held.lost]

    def renew_all(self, claims: list[Claim]) -> None:
        """Renew the leases of ``claims`` in one statement. Raises ``InboxUnavailable``."""
        self._claims.renew_all(claims)

    def renew(self, claim: Claim, held: Held) -> None:
        """Renew one lease. Log a lost one, and a callback that runs for long.

        Raises ``InboxUnavailable``.
        """
        held.tried = started = since_boot()
        if self._claims.renew(claim):
            held.renewed = started
        elif self._is_held(claim):
            held.lost = True
            log.warning("lease_lost", **claim.log_fields())
            self._on_lost()
        if started > held.warn_at:
            held.warn_at = started + 2 * (started - held.since)
            seconds = round(started - held.since)
            log.warning("callback_still_running", **claim.log_fields(), seconds=seconds)

    def _is_held(self, claim: Claim) -> bool:
        with self._lock:
            return claim in self._held

    def by_token(self) -> dict[tuple[str, str], Claim]:
        """Return the claims by event and token.

        After a lost answer the driver repeats a claim with its token, and can claim a second event.
        """
        with self._lock:
            return {(claim.event_id, claim.token): claim for claim in self._held}
