"""The timeline of a day: bars by hour, as SVG made on the server, and as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from app.states import NOT_RUN, SUCCESSES, State

HOURS = 24
HOUR_SECONDS = 3600

#: The kinds of a bar's parts, from the bottom to the top.
KINDS = ("done", "pending", "rejected", "dead")

#: The width of the slot of a bar, the gap beside it, and the height, in units of the SVG.
SLOT, GAP, HEIGHT = 40, 6, 110

#: The smallest part of a bar that is seen.
MIN_HEIGHT = 3.0


class Counted(Protocol):
    """A counter of the inbox's activity in one period."""

    @property
    def kind(self) -> str:
        """``attempt`` or ``rejection``, among others."""

    @property
    def name(self) -> str:
        """The outcome of the attempts, or the reason of the rejections."""

    @property
    def last_at(self) -> float:
        """The time of the last one, in seconds since the epoch."""

    @property
    def number(self) -> int:
        """How many there were."""


@dataclass(frozen=True, slots=True)
class Part:
    """One rectangle of a bar."""

    kind: str
    y: float
    height: float


@dataclass(frozen=True, slots=True)
class Bar:
    """The numbers of one hour by kind, and their rectangles. ``x`` is the left edge of the slot."""

    label: str
    numbers: Mapping[str, int]
    x: int
    parts: tuple[Part, ...]

    @property
    def title(self) -> str:
        """The hour and its numbers in words: ``14:00 to 15:00 UTC: 52 done, 1 dead``."""
        given = [f"{self.numbers[kind]:,} {kind}" for kind in KINDS if self.numbers[kind]]
        return f"{self.label} UTC: {', '.join(given) or 'nothing'}"


@dataclass(frozen=True, slots=True)
class Chart:
    """The bars of a day, the oldest first. ``most``: the number at the top of the chart."""

    bars: tuple[Bar, ...]
    most: int

    @property
    def width(self) -> int:
        """The width in units of the SVG."""
        return len(self.bars) * SLOT

    def total(self, kind: str) -> int:
        """Return the number of one kind in the whole day."""
        return sum(bar.numbers[kind] for bar in self.bars)


def begin(now: float) -> float:
    """Return the start of the day that ends with the hour of ``now``, in seconds."""
    return (now // HOUR_SECONDS - HOURS + 1) * HOUR_SECONDS


def chart(
    activity: Iterable[Counted], open_by_hour: Mapping[tuple[State, int], int], now: float
) -> Chart:
    """Return the chart of the day that ends with the hour of ``now``.

    Done events and rejections count in the hour in which they happened. Pending and dead events
    count in the hour of their receipt, as long as they are pending or dead.
    """
    first = int(begin(now) // HOUR_SECONDS)
    hours = {hour: Counter[str]() for hour in range(first, first + HOURS)}
    for each in activity:
        kind = _kind(each)
        hour = int(each.last_at // HOUR_SECONDS)
        if kind and hour in hours:
            hours[hour][kind] += each.number
    for (state, hour), number in open_by_hour.items():
        if hour in hours:
            hours[hour][str(state)] += number
    most = max(1, *(numbers.total() for numbers in hours.values()))
    bars = (_bar(place, hour, hours[hour], most) for place, hour in enumerate(hours))
    return Chart(tuple(bars), most)


def _kind(counted: Counted) -> str | None:
    if counted.kind == "rejection":
        return "rejected"
    is_done = counted.kind == "attempt" and counted.name in SUCCESSES | NOT_RUN
    return "done" if is_done else None


def _bar(place: int, hour: int, numbers: Mapping[str, int], most: int) -> Bar:
    parts = []
    top = float(HEIGHT)
    for kind in KINDS:
        if numbers[kind]:
            height = max(numbers[kind] / most * HEIGHT, MIN_HEIGHT)
            top = max(top - height, 0.0)
            parts.append(Part(kind, round(top, 1), round(height, 1)))
    return Bar(_label(hour), numbers, place * SLOT, tuple(parts))


def _label(hour: int) -> str:
    start, end = (
        datetime.fromtimestamp(each * HOUR_SECONDS, UTC).strftime("%H:%M")
        for each in (hour, hour + 1)
    )
    return f"{start} to {end}"
