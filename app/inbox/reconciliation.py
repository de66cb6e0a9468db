"""The inbox for the reconciler: known events, backfill, watermarks, leadership."""

from __future__ import annotations

from app.inbox.models import NewEvent
from app.inbox.sql import reconcile
from app.inbox.store import Store, row_values

#: The latest events, among which ``recent_accounts`` searches.
SEARCHED = 1_000


class Reconciliation:
    """Records events that no delivery brought, and how far Stripe's list was read."""

    def __init__(self, store: Store) -> None:
        """Take the ``store`` of the events."""
        self._store = store

    def known(self, event_ids: list[str]) -> set[str]:
        """Return which of these events the inbox has."""
        return {row[0] for row in self._store.read(reconcile.KNOWN, ids=event_ids)}

    def backfill(
        self, event: NewEvent, *, skipped: bool = False, backdate_seconds: float = 0.0
    ) -> bool:
        """Record an event that no delivery brought. False when the inbox has it already.

        The event is pending, or ``skipped`` as one of the other mode. ``due_at`` is set
        ``backdate_seconds`` back, so that events recorded in one clock tick keep their order. When
        this returns, the event is on the disk.
        """
        statement = reconcile.BACKFILL_SKIPPED if skipped else reconcile.BACKFILL
        row = self._store.write(
            statement,
            durable=True,
            **row_values(event, self._store.rules),
            backdate_seconds=backdate_seconds,
        )
        return row is not None

    def unfinished_ids(self, *, livemode: bool) -> list[str]:
        """Return the backfilled events that are due and not settled, the first due first."""
        names = {"livemode": livemode, "max_crashes": self._store.max_crashes}
        return [row[0] for row in self._store.read(reconcile.UNFINISHED, **names)]

    def recent_accounts(self, limit: int, *, livemode: bool) -> list[str]:
        """Return up to ``limit`` accounts of the latest 1,000 events, without that of the key."""
        names = {"searched": SEARCHED, "limit": limit, "livemode": livemode}
        return [row.context for row in self._store.read(reconcile.RECENT_ACCOUNTS, **names)]

    def watermarks(self, *, livemode: bool, context: str) -> dict[str, float]:
        """Return the watermark of each event type, for one account."""
        rows = self._store.read(reconcile.WATERMARKS, livemode=livemode, context=context)
        return {row.type: row.reached for row in rows}

    def advance_watermark(
        self, *, livemode: bool, context: str, type_: str, begin: float, end: float
    ) -> bool:
        """Record that a type was reconciled from ``begin`` to ``end``.

        False when its watermark is later than ``end`` or earlier than ``begin``.
        """
        row = self._store.write(
            reconcile.ADVANCE_WATERMARK,
            livemode=livemode,
            context=context,
            type=type_,
            reached=end,
            begin=begin,
        )
        return row is not None

    def acquire_leadership(self, name: str, leader_id: str, seconds: float) -> bool:
        """Become or stay the leader for ``seconds``. False when another process is the leader."""
        row = self._store.write(
            reconcile.ACQUIRE_LEADERSHIP, name=name, leader_id=leader_id, seconds=seconds
        )
        return row is not None

    def has_leader(self, name: str) -> bool:
        """Return whether a process is the leader of that name."""
        return bool(self._store.read(reconcile.LEADER, name=name))
