"""The audit log: each action of an operator."""

from __future__ import annotations

from dataclasses import dataclass

from app.inbox.sql import audit as statements
from app.inbox.store import Store


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One action. ``at`` is its begin.

    ``target``: an event id, an event type, a filter as in an address, or a destination's id; None
    for an action on everything. ``affected``: the number of events that it changed. None if the
    action has not ended, ended with an error, or changes no events.
    """

    id: int
    at: float
    by: str
    action: str
    target: str | None
    why: str | None
    affected: int | None


class Audit:
    """Writes and reads the audit log."""

    def __init__(self, store: Store) -> None:
        """Take the ``store`` of the log."""
        self._store = store

    def record(
        self,
        by: str,
        action: str,
        target: str | None = None,
        why: str | None = None,
        affected: int | None = None,
    ) -> int:
        """Record an action before it begins, and return the id of its entry.

        ``affected`` is known before only for an action that changes no events. When this returns,
        the entry is on the disk.
        """
        row = self._store.write(
            statements.RECORD,
            durable=True,
            by_=by,
            action_=action,
            target_=target,
            why_=why,
            affected_=affected,
        )
        assert row is not None  # noqa: S101 - an insert without a condition returns its row
        return int(row[0])

    def complete(self, entry_id: int, affected: int) -> None:
        """Record that the action has ended, and how many events it changed."""
        self._store.write(statements.COMPLETE, durable=True, audit_id=entry_id, affected_=affected)

    def entries(
        self, limit: int, before_id: int | None = None, target: str | None = None
    ) -> list[AuditEntry]:
        """Return up to ``limit`` entries, the latest first.

        ``before_id``: only those before this entry. ``target``: only those about it.
        """
        if target and "\0" in target:  # PostgreSQL refuses to compare it
            return []
        rows = self._store.read(statements.entries(before_id, target, limit))
        return [AuditEntry(*tuple(row)) for row in rows]
