"""The inbox for the commands and pages of an operator: show, retry, pause, report."""

from __future__ import annotations

from app.inbox.actions import Actions
from app.inbox.audit import AuditEntry
from app.inbox.engine import limits
from app.inbox.models import Attempt, Event, Note
from app.inbox.pauses import Pauses
from app.inbox.report import Report, make_report
from app.inbox.selection import Selection
from app.inbox.sql import administration as statements
from app.inbox.sql import report as report_statements
from app.inbox.store import Store
from app.states import State


class Administration(Selection, Actions, Pauses):
    """Shows events, has them run again, and pauses the workers."""

    def __init__(self, store: Store) -> None:
        """Take the ``store`` of the events."""
        for part in (Selection, Actions, Pauses):
            part.__init__(self, store)

    def find(self, event_id: str) -> Event | None:
        """Return the event of that id, if the inbox has it."""
        if "\0" in event_id:  # PostgreSQL refuses to compare it
            return None
        rows = self._store.read(statements.FIND, event_id=event_id)
        return Event.of(rows[0]) if rows else None

    def attempts(self, event_id: str) -> list[Attempt]:
        """Return the attempts of the event that have ended, the first one first."""
        event = self.find(event_id)
        rows = self._store.read(statements.ATTEMPTS, event_id=event_id)
        attempts = [Attempt(*tuple(row)) for row in rows]
        latest = _latest_attempt(event) if event else None
        # The next attempt may have begun between the two reads.
        if latest and latest.attempt not in {each.attempt for each in attempts}:
            attempts.append(latest)
        return attempts

    def retries(self, event_id: str) -> list[Note]:
        """Return the retries that people asked for, the first one first."""
        rows = self._store.read(statements.RETRIES, event_id=event_id)
        return [Note(*tuple(row)) for row in rows]

    def audit(
        self, limit: int, before_id: int | None = None, target: str | None = None
    ) -> list[AuditEntry]:
        """Return up to ``limit`` entries of the audit log, as ``Audit.entries`` does."""
        return self._log.entries(limit, before_id, target)

    def oldest_due_seconds(self) -> float:
        """Return how long the oldest due event has waited for a worker. 0 if none is due."""
        # A health check waits for this.
        ((age,),) = self._store.read(report_statements.OLDEST_DUE, seconds=limits.SECONDS)
        return float(age or 0)

    def polling_reason(self) -> str | None:
        """Return why workers learn of other processes' events by polling only. None if not."""
        return self._store.engine.polling_reason()

    def counts_by_fallback(self, *, livemode: bool) -> dict[str, int]:
        """Return how many events of this mode the fallback took, by event type."""
        rows = self._store.read(report_statements.BY_FALLBACK, livemode=livemode)
        return {row.type: row.number for row in rows}

    def report(self) -> Report:
        """Return the counts of waiting and dead events, and suspicious findings."""
        return make_report(self._store)


def _latest_attempt(event: Event) -> Attempt | None:
    """Return the attempt that the event's own row holds, if it has ended."""
    if event.state == State.RUNNING or event.claimed_at is None:
        return None
    return Attempt(
        event_id=event.id,
        attempt=event.attempt,
        claimed_by=event.claimed_by,
        started_at=event.claimed_at,
        ended_at=event.settled_at or event.claimed_at,
        outcome=event.outcome or "unknown",
        reason=event.reason,
        traceback=event.traceback,
        fingerprint=event.fingerprint,
        release=event.release,
    )
