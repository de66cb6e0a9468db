"""The inbox for the rescuer: expired leases, and the database's clock."""

from __future__ import annotations

from app.inbox.engine import limits
from app.inbox.models import Suspect
from app.inbox.sql import clock_repair, rescue
from app.inbox.store import Store


class Rescue:
    """Finds expired leases, and repairs due times after the clock stepped back."""

    def __init__(self, store: Store) -> None:
        """Take the ``store`` of the events."""
        self._store = store

    def suspects(self) -> list[Suspect]:
        """Return the running events whose lease expired, and that are no orphans yet."""
        rows = self._store.read(rescue.SUSPECTS, seconds=limits.SECONDS)
        return [Suspect(*tuple(row)) for row in rows]

    def add_unrenewed(self, suspect: Suspect, seconds: float) -> bool | None:
        """Record the total of ``seconds`` for which the lease was seen unrenewed.

        Returns whether the event is an orphan now. Returns None when the lease was renewed, or
        when another process recorded seconds since ``suspect`` was read.
        """
        row = self._store.write(
            rescue.SUSPECT,
            event_id=suspect.event_id,
            claim=suspect.attempt,
            token=suspect.token,
            suspected=suspect.lease_until,
            before=suspect.seconds,
            seconds=seconds,
        )
        return bool(row[0]) if row else None

    def clock(self) -> float:
        """Return the time of the database, in seconds since the epoch."""
        return float(self._store.read(clock_repair.CLOCK, seconds=limits.SECONDS)[0][0])

    def repair_times(self, *, stepped: bool) -> None:
        """Make events due that would wait because the database's clock stepped back.

        ``stepped``: the step was observed just now. Any number of processes may call this. An event
        with a delay waits for its delay again.
        """
        self._store.write(clock_repair.REPAIR_EVENTS, slow_ok=True)
        ahead = 0.0 if stepped else clock_repair.SLOT_SECONDS
        self._store.write(clock_repair.REPAIR_RATE_LIMITS, ahead=ahead)
        if stepped:
            self._store.write(clock_repair.REPAIR_LEADERS)
