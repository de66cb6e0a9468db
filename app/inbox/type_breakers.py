"""The inbox for the circuit breakers of event types, which all processes share."""

from __future__ import annotations

from dataclasses import dataclass

from app.inbox.audit import Audit
from app.inbox.models import BREAKER
from app.inbox.sql import type_breakers as statements
from app.inbox.store import Store


@dataclass(frozen=True, slots=True)
class FailingType:
    """An event type that failed since its last success. ``is_full``: as often as the limit.

    ``paused_by`` is who paused it, or None.
    """

    type: str
    failures: int
    is_full: bool
    paused_by: str | None

    @property
    def is_open(self) -> bool:
        """True if the circuit breaker has paused the type."""
        return self.paused_by == BREAKER


class TypeBreakers:
    """Counts failures in a row by type, and pauses types. Every method can raise."""

    def __init__(self, store: Store) -> None:
        """Take the ``store`` of the events."""
        self._store = store
        self._audit = Audit(store)

    def failing(self) -> list[FailingType]:
        """Return the types that failed since their last success, and those that are paused so."""
        rows = self._store.read(statements.ALL)
        return [
            FailingType(each.type, each.failures, each.reached_at is not None, each.by)
            for each in rows
        ]

    def add(self, event_type: str, number: int, limit: int) -> None:
        """Count failures of a type. The breaker can open once there are ``limit``."""
        self._store.write(statements.ADD, failed_type=event_type, number=number, limit=limit)

    def open(self, event_type: str, why: str, seconds: float) -> bool:
        """Pause the type if its failures reached the limit ``seconds`` ago, and it still fails.

        False if it is paused already, or has succeeded since. The entry of the audit log is written
        before the pause.
        """
        if not self._store.read(statements.DUE, failed_type=event_type, confirmed_seconds=seconds):
            return False
        audit_id = self._audit.record(BREAKER, "pause", event_type, why)
        row = self._store.write(
            statements.OPEN,
            durable=True,
            failed_type=event_type,
            why=why,
            confirmed_seconds=seconds,
        )
        if row is None:
            self._audit.complete(audit_id, 0)
        return row is not None

    def close(self, event_type: str, why: str) -> bool:
        """Forget the failures of a type that has succeeded. Returns whether its pause has ended.

        The pause of a person stays.
        """
        row = self._store.write(statements.CLOSE, durable=True, failed_type=event_type)
        self._store.write(statements.FORGET, failed_type=event_type)
        if row is not None:
            self._audit.record(BREAKER, "resume", event_type, why)
        return row is not None

    def take_probe(self, event_type: str, seconds: float) -> bool:
        """Return whether this process is to try an event of the type now.

        It is for one process in ``seconds``, if the breaker is open.
        """
        row = self._store.write(statements.TAKE_PROBE, failed_type=event_type, seconds=seconds)
        return row is not None
