"""Plans which windows of Stripe's lists are read."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.stripe_api.catalog import Kind, kind_of

#: Event types that one call of either of Stripe's lists takes.
TYPES_AT_ONCE = 20

#: The last seconds are not read: Stripe's list is complete only after some time.
LIST_LAG_SECONDS = 5 * 60

#: Windows overlap by this many seconds: events can appear in the list late and out of order.
OVERLAP_SECONDS = 10 * 60

#: The length in seconds of the first window of a type.
FIRST_WINDOW_SECONDS = 24 * 3600

#: Stripe lists events for this many seconds.
STRIPE_KEEPS_SECONDS = 30 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Window:
    """A part of one of Stripe's lists: some event types of one kind from ``begin`` to ``end``.

    Both are whole seconds since the epoch, because the list of snapshot events takes no fractions.
    ``context`` is the account, empty for the account of the key. The watermarks of the types in
    ``advance`` move to ``end`` afterwards. For other types, events between their watermark and
    ``begin`` were not read.
    """

    context: str
    types: tuple[str, ...]
    begin: int
    end: int
    advance: tuple[str, ...]
    late: tuple[str, ...]
    """Types whose watermark is older than Stripe's list."""

    @property
    def kind(self) -> Kind:
        """The kind of its events. Each kind has a list of its own."""
        return kind_of(self.types[0])


def plan(
    context: str, types: Sequence[str], watermarks: Mapping[str, float], since: float | None
) -> list[Window]:
    """Return the windows to read for one account, with up to twenty ``types`` of one kind each.

    A type begins at its watermark, less the overlap. ``since`` replaces that for all types, in
    seconds since the epoch. Types with similar watermarks share a window.
    """
    now = time.time()
    end, oldest = math.floor(now - LIST_LAG_SECONDS), now - STRIPE_KEEPS_SECONDS
    # Each type is complete up to this time. Events that Stripe no longer lists cannot be read.
    complete = {
        type_: max(oldest, watermarks.get(type_, now - FIRST_WINDOW_SECONDS)) for type_ in types
    }
    overlap = {type_: OVERLAP_SECONDS if type_ in watermarks else 0 for type_ in types}
    begins = {
        type_: complete[type_] - overlap[type_] if since is None else since for type_ in types
    }
    ordered = sorted(types, key=lambda type_: (begins[type_], type_))
    windows = []
    for first in range(0, len(ordered), TYPES_AT_ONCE):
        some = tuple(ordered[first : first + TYPES_AT_ONCE])
        begin = min(end, math.floor(max(oldest, begins[some[0]])))
        advance = tuple(type_ for type_ in some if begin <= complete[type_])
        late = tuple(type_ for type_ in some if watermarks.get(type_, now) < oldest)
        windows.append(Window(context, some, begin, end, advance, late))
    return windows
