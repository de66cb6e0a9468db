"""The events of a filter: pages of them, and their number."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from operator import attrgetter
from typing import Any, TypeVar

import sqlalchemy as sa

from app.inbox.filters import EventFilter
from app.inbox.models import Count, Cursor, Event, EventRow, Page
from app.inbox.sql import selection as statements
from app.inbox.sql.selection import FIRST, LAST, Source, Window
from app.inbox.store import Store

T = TypeVar("T")

#: Events that a count counts, and candidates that a search tests: rows that an index finds by one
#: condition of the filter, to be read for the others.
BOUND = 10_000
TESTED = 5_000
#: Ids in one statement.
CHUNK = 500


class Selection:
    """Selects and counts events. No call takes long, however many events there are."""

    def __init__(self, store: Store) -> None:
        """Take the ``store`` of the events."""
        self._store = store

    def page(
        self,
        matching: EventFilter,
        *,
        limit: int,
        before: Cursor | None = None,
        after: Cursor | None = None,
        bound: int = TESTED,
    ) -> Page:
        """Return up to ``limit`` matching events, the latest first.

        With ``before``, those right before this cursor, otherwise with ``after`` those right after
        it. At most ``bound`` candidates of each index are tested.
        """
        window = _window(matching, before, after)
        keys, horizon = self._search(matching, window, limit + 1, bound)
        has_more, keys = len(keys) > limit, keys[:limit]
        end = horizon
        if has_more:
            end = keys[-1]
        start = keys[0] if keys else before or after
        if window.oldest_first:
            newer, older = end, start
            keys.reverse()
        else:
            newer, older = (start if before or after else None), end
        rows = self._rows(keys, statements.ROWS, EventRow.of)
        return Page(rows, newer, older, is_partial=horizon is not None and not has_more)

    def walk(self, matching: EventFilter) -> Iterator[EventRow]:
        """Yield all matching events, the oldest first.

        It reads them in steps. Each step is as short as a page, and their number has no bound.
        """
        cursor: Cursor | None = Cursor(FIRST)
        while cursor is not None:
            page = self.page(matching, limit=CHUNK, after=cursor)
            yield from reversed(page.events)
            cursor = page.newer

    def select(
        self, matching: EventFilter, limit: int, *, oldest_first: bool = False
    ) -> list[Event]:
        """Return up to ``limit`` matching events by their time of receipt, the latest first.

        It searches without a bound.
        """
        window = replace(_window(matching, None, None), oldest_first=oldest_first)
        keys, _ = self._search(matching, window, limit, None)
        return self._rows(keys, statements.EVENTS, Event.of)

    def latest(self, limit: int) -> list[Event]:
        """Return the ``limit`` events that were received last, the latest first."""
        return self.select(EventFilter(), limit)

    def count(self, matching: EventFilter, bound: int = BOUND) -> Count:
        """Return how many events match, up to about ``bound``.

        If the filter has conditions that its index lacks, fewer rows are tested, the latest ones.
        """
        total = Count(0)
        for source in statements.sources(matching):
            most = min(bound, TESTED) if source.rest else bound
            statement = source.numbers(_window(matching, None, None), most)
            (row,) = self._store.read(statement)
            total += Count(min(int(row.matching), most), row.searched > most)
        return total

    def _search(
        self, matching: EventFilter, window: Window, limit: int, bound: int | None
    ) -> tuple[list[Cursor], Cursor | None]:
        """Return the first matching events, and the cursor at which the search ended, if so."""
        parts = statements.sources(matching)
        ends = self._horizons(parts, window, bound)
        windows = [window.until(ends.get(place)) for place in range(len(parts))]
        rows = self._store.read(statements.keys(list(zip(parts, windows, strict=True)), limit))
        found = [Cursor(row.received_at, row.id) for row in rows]
        found.sort(key=attrgetter("received_at", "id"), reverse=not window.oldest_first)
        if not ends:
            return found[:limit], None
        nearest = (min if window.oldest_first else max)(ends.values())
        return [each for each in found if _reaches(nearest, each, window)][:limit], (
            Cursor(math.nextafter(nearest, math.inf)) if window.oldest_first else Cursor(nearest)
        )

    def _horizons(self, parts: list[Source], window: Window, bound: int | None) -> dict[int, float]:
        """Return the times at which searches have to end, by the number of the search."""
        places = [place for place, each in enumerate(parts) if each.rest and each.is_ordered]
        if bound is None or not places:
            return {}
        bounded = [parts[place] for place in places]
        rows = self._store.read(statements.horizons(bounded, window, bound))
        return {places[row.number]: row.received_at for row in rows}

    def _rows(
        self, keys: list[Cursor], statement: sa.Select[Any], make: Callable[[sa.Row[Any]], T]
    ) -> list[T]:
        """Return the events of these keys, in the same order. Those removed since are left out."""
        found: dict[str, T] = {}
        for start in range(0, len(keys), CHUNK):
            ids = [each.id for each in keys[start : start + CHUNK]]
            found |= {row.id: make(row) for row in self._store.read(statement, ids=ids)}
        return [found[each.id] for each in keys if each.id in found]


def _window(matching: EventFilter, before: Cursor | None, after: Cursor | None) -> Window:
    """Return the part of the order of receipt in which to search."""
    first = FIRST if matching.since is None else matching.since
    last = LAST if matching.until is None else matching.until
    if before is not None and before.received_at <= last:
        return Window(first, before.received_at, before.id)
    if before is None and after is not None:
        if after.received_at < first:
            return Window(first, last, oldest_first=True)
        return Window(after.received_at, last, after.id, oldest_first=True)
    return Window(first, last)


def _reaches(horizon: float, found: Cursor, window: Window) -> bool:
    """Return True if every search has reached this event."""
    time = found.received_at
    return time <= horizon if window.oldest_first else time >= horizon
