"""The chart of a day: the hours, the numbers, and the places of the bars."""

from __future__ import annotations

from dataclasses import dataclass

from app.states import State
from app.web.ops import timeline

NOW = 500_000 * 3600 + 1800.0
LAST = 500_000


@dataclass(frozen=True)
class Counter:
    """A counter of the inbox's activity."""

    kind: str
    name: str
    last_at: float
    number: int


def test_numbers_count_in_their_hours() -> None:
    """Done events and rejections count when they happened, open events when they were received."""
    activity = [
        Counter("attempt", "handled", NOW, 5),
        Counter("attempt", "fallback", NOW - 1, 2),
        Counter("attempt", "twin", NOW, 1),
        Counter("attempt", "shadow", NOW, 1),
        Counter("attempt", "superseded", NOW, 4),
        Counter("attempt", "failed", NOW, 9),
        Counter("delivery", "handled", NOW, 9),
        Counter("rejection", "signature_stale", NOW - 3600, 3),
        Counter("attempt", "handled", NOW - 24 * 3600, 9),
    ]
    open_by_hour = {
        (State.PENDING, LAST): 1,
        (State.DEAD, LAST - 23): 4,
        (State.DEAD, LAST - 24): 9,
        (State.PENDING, LAST + 1): 9,
    }
    chart = timeline.chart(activity, open_by_hour, NOW)
    assert len(chart.bars) == 24
    assert chart.bars[-1].numbers == {"done": 13, "pending": 1}
    assert chart.bars[-2].numbers == {"rejected": 3}
    assert chart.bars[0].numbers == {"dead": 4}
    totals = [chart.total(kind) for kind in timeline.KINDS]
    assert totals == [13, 1, 3, 4]
    assert chart.most == 14


def test_bars_fit_into_the_chart() -> None:
    """Parts stand on each other, the dead ones on top. Small numbers are seen too."""
    activity = [Counter("attempt", "handled", NOW, 100_000)]
    chart = timeline.chart(activity, {(State.DEAD, LAST): 1, (State.PENDING, LAST): 1}, NOW)
    done, pending, dead = chart.bars[-1].parts
    assert [done.kind, pending.kind, dead.kind] == ["done", "pending", "dead"]
    assert dead.height == timeline.MIN_HEIGHT
    assert dead.y <= pending.y <= done.y
    assert all(0 <= part.y <= timeline.HEIGHT for part in chart.bars[-1].parts)
    assert chart.bars[-1].x == chart.width - timeline.SLOT
    assert chart.bars[0].parts == ()


def test_titles_say_hour_and_numbers() -> None:
    """The title of a bar is what a person hears or sees on hover."""
    chart = timeline.chart([], {(State.DEAD, LAST): 1204}, NOW)
    assert chart.bars[-1].title == "08:00 to 09:00 UTC: 1,204 dead"
    assert chart.bars[-2].title == "07:00 to 08:00 UTC: nothing"
