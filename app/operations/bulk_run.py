"""Runs the events of a filter one after another, for a limited time: a retry in inline mode."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from app.errors import DeliveryError
from app.inbox.administration import Administration
from app.inbox.filters import EventFilter
from app.inbox.models import Count, Cursor, EventRow
from app.operations.retrying import ResultDelayed
from app.states import SUCCESSES, Outcome, State

#: Events that are read at once.
CHUNK = 50


class BulkRun:
    """One run over the events of a filter, state by state, the oldest first in each.

    ``succeeded``, ``failed`` and ``skipped`` are numbers of events. A skipped event has changed
    since it was read. ``place`` is where the next run goes on, None at the end.
    """

    def __init__(
        self,
        administration: Administration,
        matching: EventFilter,
        states: Sequence[State],
        place: str | None = None,
    ) -> None:
        """Take the filter, the ``states`` in their order, and the place where to begin.

        Raises ``ValueError`` for a ``place`` that no run has returned.
        """
        self._administration = administration
        self._matching = matching
        state, _, cursor = (place or "").partition(":")
        self._states = list(states)
        self._cursor = Cursor(0.0)
        if place:
            self._states = self._states[self._states.index(State(state)) :]
            self._cursor = Cursor.parse(cursor)
        self.succeeded = self.failed = self.skipped = 0

    @property
    def place(self) -> str | None:
        """The place of the next event."""
        return f"{self._states[0]}:{self._cursor}" if self._states else None

    def run(
        self, retry: Callable[[EventRow], Outcome | None], *, until: Callable[[], bool]
    ) -> None:
        """Call ``retry`` for one event, and for further ones until ``until`` is true.

        Raises ``InboxUnavailable``.
        """
        for event in self._events():
            self._cursor = Cursor(event.received_at, event.id)
            try:
                outcome = retry(event)
            except (DeliveryError, ResultDelayed) as error:
                outcome = error.outcome
            self._add(outcome)
            if until():
                return

    def left(self) -> Count:
        """Return how many events are left for the next run."""
        count = Count(0)
        for number, state in enumerate(self._states):
            matching = replace(self._matching, state=state.value)
            if number == 0:
                after = math.nextafter(self._cursor.received_at, math.inf)
                matching = replace(matching, since=max(after, matching.since or 0.0))
            count += self._administration.count(matching)
        return count

    def _events(self) -> Iterator[EventRow]:
        while self._states:
            matching = replace(self._matching, state=self._states[0].value)
            page = self._administration.page(matching, limit=CHUNK, after=self._cursor)
            yield from reversed(page.events)
            if page.newer is None:
                del self._states[0]
                self._cursor = Cursor(0.0)
            else:
                self._cursor = page.newer

    def _add(self, outcome: Outcome | None) -> None:
        self.succeeded += outcome in SUCCESSES
        self.skipped += outcome is None
        self.failed += outcome is not None and outcome not in SUCCESSES
