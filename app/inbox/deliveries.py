"""The inbox for the receiver: recording deliveries."""

from __future__ import annotations

import math
import time

from app.inbox.models import NewEvent, RecordedEvent
from app.inbox.sql import deliveries as statements
from app.inbox.store import Store, event_from_row, row_values
from app.states import Outcome

#: Seconds between two notifications to the workers of other processes.
NOTIFY_SECONDS = 0.05


class Deliveries:
    """Records each delivery in one statement, which also decides whether its event runs."""

    def __init__(self, store: Store) -> None:
        """Take the ``store`` of the events."""
        self._store = store
        self._notify = statements.notify(store.channel)
        self._notified_at = -math.inf

    def record_and_claim(self, event: NewEvent) -> RecordedEvent:
        """Record one delivery of ``event``, and claim the event if it may run now.

        It may when it is new, pending, or an orphan. Of any number of simultaneous deliveries one
        gets the claim.
        """
        found = self._store.claim(
            statements.RECORD_AND_CLAIM,
            slow_ok=False,
            **row_values(event, self._store.rules),
            max_crashes=self._store.max_crashes,
        )
        assert found is not None  # noqa: S101 - an upsert without a WHERE always returns its row
        if found.outcome == Outcome.CRASHED:
            # The upsert may have marked the event dead. It was not durable, and Stripe gets a 200.
            self._store.sync()
        return found

    def enqueue(self, event: NewEvent) -> RecordedEvent:
        """Record one delivery of ``event``, for a worker to run it.

        When this returns, the event is on the disk. A known event keeps its state.
        """
        return event_from_row(
            self._store.write(
                statements.ENQUEUE, durable=True, **row_values(event, self._store.rules)
            )
        )

    def record_skipped(self, event: NewEvent, outcome: Outcome) -> RecordedEvent:
        """Record one delivery of an event that is not to be run, with the ``outcome`` as reason.

        A known event keeps its state. ``record_and_claim`` runs a skipped event when it is
        delivered again.
        """
        row = self._store.write(
            statements.RECORD_SKIPPED,
            durable=True,
            **row_values(event, self._store.rules),
            outcome=outcome.value,
        )
        return event_from_row(row)

    def notify(self) -> None:
        """Notify the workers of other processes that an event is due. Does nothing on SQLite.

        At most once in ``NOTIFY_SECONDS``: workers also poll.
        """
        if time.monotonic() > self._notified_at + NOTIFY_SECONDS:
            self._notified_at = time.monotonic()
            self._store.engine.notify(self._notify)
