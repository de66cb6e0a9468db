"""A chart of numbers by hour, as SVG made on the server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

#: The size of a bar's slot and of the chart, in units of the SVG.
SLOT = 15
HEIGHT = 100

#: The smallest bar that is seen.
MIN_HEIGHT = 2


@dataclass(frozen=True, slots=True)
class Bar:
    """The number of one hour. ``x``, ``y`` and ``height`` are places in the SVG."""

    label: str
    number: int
    details: str
    x: int
    y: int
    height: int


@dataclass(frozen=True, slots=True)
class Chart:
    """The bars, the oldest first, the size of the SVG, and the largest number."""

    bars: list[Bar]
    width: int
    height: int
    top: int

    @property
    def total(self) -> int:
        """The sum of all numbers."""
        return sum(each.number for each in self.bars)


def by_hour(numbers: Iterable[tuple[int, str, int]], last_hour: int, hours: int) -> Chart:
    """Return the chart of the ``hours`` until ``last_hour``, in whole hours since the epoch.

    Each of the ``numbers`` has its hour, the release, and the number of that release.
    """
    parts: dict[int, Counter[str]] = {}
    for hour, release, number in numbers:
        parts.setdefault(hour, Counter())[release] += number
    first = last_hour - hours + 1
    sums = [sum(parts.get(hour, Counter()).values()) for hour in range(first, last_hour + 1)]
    top = max([*sums, 1])
    bars = [
        _bar(place, first + place, number, parts.get(first + place, Counter()), top)
        for place, number in enumerate(sums)
    ]
    return Chart(bars, hours * SLOT, HEIGHT, top)


def hour_name(hour: int) -> str:
    """Return an hour since the epoch in words: ``2026-11-26 02:00 UTC``."""
    return datetime.fromtimestamp(hour * 3600, UTC).strftime("%Y-%m-%d %H:00 UTC")


def _bar(place: int, hour: int, number: int, parts: Counter[str], top: int) -> Bar:
    height = max(round(number / top * HEIGHT), MIN_HEIGHT) if number else 0
    details = ", ".join(f"{release or 'unknown release'} {n}" for release, n in parts.most_common())
    return Bar(hour_name(hour), number, details, place * SLOT, HEIGHT - height, height)
