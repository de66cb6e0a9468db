"""Claims: taking an event, renewing its lease, and settling it with a result."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import sqlalchemy as sa

from app.errors import InboxUnavailable
from app.inbox.claim_rules import ClaimRules
from app.inbox.groups import Groups
from app.inbox.models import Claim, Event, EventRow, Failure
from app.inbox.sql import claims, lanes, settling
from app.inbox.store import Store, seen_values
from app.states import Outcome, State

#: One claim in so many takes an event of low priority first. So these events do not wait for ever
#: while others are due.
LOW_SHARE = 10


class Claims:
    """The inbox for workers, runners and leases.

    A method that settles returns False when another attempt has taken the event.
    """

    def __init__(self, store: Store) -> None:
        """Take the ``store`` of the events."""
        self._store = store
        self._groups = Groups(store)
        self._turns = itertools.count(1)

    def listen(self, act: Callable[[], object], stopping: threading.Event) -> None:
        """Call ``act`` at each notification of another process, until ``stopping``.

        Returns at once on SQLite, which has no notifications.
        """
        self._store.engine.listen(self._store.channel, act, stopping)

    def claim_due(self, *, livemode: bool) -> Claim | None:
        """Claim the event of this mode that has been due for longest and whose key is free.

        An event of low priority is claimed if no other is due, and at one claim in ten. If its type
        coalesces, the newest event of its object is claimed, and the others become done.
        """
        if self._rules.is_plain:
            return self._claim(claims.CLAIM_DUE, livemode=livemode)
        low_rank = 1 if next(self._turns) % LOW_SHARE else -1
        return self._claim(lanes.claims_with(self._rules).due, livemode=livemode, low_rank=low_rank)

    def claim_orphan(self, *, livemode: bool) -> Claim | None:
        """Claim an orphan of this mode."""
        statement: sa.Executable = claims.CLAIM_ORPHAN
        if self._rules.has_lanes:
            statement = lanes.claims_with(self._rules).orphan
        return self._claim(statement, livemode=livemode, max_crashes=self._store.max_crashes)

    @property
    def _rules(self) -> ClaimRules:
        return self._store.rules

    def claim_parked(self, event_type: str, *, livemode: bool) -> Claim | None:
        """Claim a parked event of a paused type: a probe.

        If none is parked, claim an orphan of the type: the process of the last probe can crash.
        """
        names = {"parked_type": event_type, "livemode": livemode}
        return self._claim(claims.CLAIM_PARKED, **names) or self._claim(
            claims.CLAIM_CRASHED_PROBE, **names, max_crashes=self._store.max_crashes
        )

    def claim_one(
        self,
        event_id: str,
        *,
        by: str,
        why: str | None = None,
        again: bool = False,
        seen: Event | EventRow | None = None,
    ) -> Claim | None:
        """Claim this event unless it runs, and record the retry with it.

        An event that is handled is claimed only ``again``. With ``seen``, it is claimed only if its
        state, its latest attempt and the time at which it is due are still those.
        """
        names = {"by": by, "why": why, "again": again, **seen_values(seen)}
        return self._claim(claims.CLAIM_ONE, event_id=event_id, **names)

    def claim_unfinished(self, event_id: str, *, livemode: bool) -> Claim | None:
        """Claim a backfilled event that is not settled yet."""
        return self._claim(
            claims.CLAIM_UNFINISHED,
            event_id=event_id,
            livemode=livemode,
            max_crashes=self._store.max_crashes,
        )

    def _claim(self, statement: sa.Executable, **parameters: Any) -> Claim | None:
        found = self._store.claim(statement, **parameters)
        return found.claim if found else None

    def mark_poison_dead(self) -> dict[str, object] | None:
        """Mark one orphan dead that ended too many processes. Returns its fields for the log."""
        row = self._store.write(
            claims.MARK_POISON_DEAD, slow_ok=True, max_crashes=self._store.max_crashes
        )
        if row is None:
            return None
        names = zip(("event_id", "event_type", "attempt", "context"), row, strict=True)
        return {name: value for name, value in names if value is not None}

    def renew(self, claim: Claim) -> bool:
        """Renew the lease. False when the event has another claim."""
        return self._settles(settling.RENEW, claim, lease_seconds=self._store.lease_seconds)

    def renew_all(self, claims: list[Claim]) -> None:
        """Renew the leases of these ``claims`` in one statement.

        It skips locked rows and lost claims.
        """
        names: dict[str, Any] = {}
        for number, each in enumerate(claims):
            names |= {f"event_id_{number}": each.event_id, f"token_{number}": each.token}
        renew = settling.renew_many(len(claims))
        self._store.write(renew, lease_seconds=self._store.lease_seconds, **names)

    def finish(self, claim: Claim, outcome: Outcome = Outcome.HANDLED) -> bool:
        """Record one of the outcomes of a success."""
        return self._settles(settling.FINISHES[outcome], claim)

    def finish_with_failure(self, claim: Claim, outcome: Outcome, failure: Failure) -> bool:
        """Record that the event is done with this ``outcome``, although its callback failed."""
        return self._settle(claim, State.DONE, outcome, failure)

    def fail(self, claim: Claim, failure: Failure) -> bool:
        """Make the event pending again, after its ``failure.delay``."""
        return self._settle(claim, State.PENDING, Outcome.FAILED, failure)

    def release(self, claim: Claim, delay: float, reason: str = "the process was stopped") -> bool:
        """Give the claim back, to be taken after ``delay`` seconds. No attempt is used up."""
        failure = Failure(reason, delay=delay)
        return self._settle(claim, State.PENDING, Outcome.RELEASED, failure)

    def mark_dead(self, claim: Claim, outcome: str, failure: Failure) -> bool:
        """Make the event dead: it needs a person."""
        # Durable, as for a skipped event: Stripe is answered 2xx, and no callback succeeded. So
        # this row is the only record.
        return self._settle(claim, State.DEAD, outcome, failure, durable=True)

    def _settle(
        self,
        claim: Claim,
        state: State,
        outcome: str,
        failure: Failure,
        *,
        durable: bool = False,
    ) -> bool:
        used = failure.attempts_used
        row = self._write(
            settling.SETTLE,
            claim,
            durable=durable,
            state=state.value,
            outcome=str(outcome),
            reason=failure.reason,
            traceback=failure.traceback,
            fingerprint=failure.fingerprint,
            release=failure.release,
            delay=failure.delay,
            attempts_used=claim.attempts_used if used is None else used,
        )
        if row is None:
            return False
        if failure.release:
            # A command may be the only process of its release.
            with suppress(InboxUnavailable):  # as in ``_name_group``
                self._groups.begin_release(failure.release)
        if failure.fingerprint and failure.exception:
            self._name_group(failure.fingerprint, failure, tuple(row[1:]))
        return True

    def _name_group(self, fingerprint: str, failure: Failure, known: tuple[object, ...]) -> None:
        """Write the words for an error group, if others are ``known``."""
        words = (failure.exception, failure.place)
        if words != known:
            with suppress(InboxUnavailable):  # the result is recorded; the next failure does it
                self._groups.note(fingerprint, *words)

    def _settles(self, statement: sa.Executable, claim: Claim, **values: Any) -> bool:
        return self._write(statement, claim, **values) is not None

    def _write(
        self, statement: sa.Executable, claim: Claim, *, durable: bool = False, **values: Any
    ) -> tuple[Any, ...] | None:
        names: dict[str, Any] = {
            "event_id": claim.event_id,
            "claim": claim.attempt,
            "token": claim.token,
        }
        return self._store.write(statement, durable=durable, **names, **values)
