"""The chart of numbers by hour."""

from __future__ import annotations

from app.web.ops import bars


def test_bars() -> None:
    """Each hour has a bar. The numbers of its releases are added, and named with the bar."""
    chart = bars.by_hour([(10, "r1", 3), (10, "", 1), (11, "r2", 400), (8, "r1", 9)], 12, 3)
    assert [each.number for each in chart.bars] == [4, 400, 0]
    assert [each.height for each in chart.bars] == [2, 100, 0]
    assert [each.y for each in chart.bars] == [98, 0, 100]
    assert [each.x for each in chart.bars] == [0, 15, 30]
    assert chart.bars[0].label == "1970-01-01 10:00 UTC"
    assert chart.bars[0].details == "r1 3, unknown release 1"
    assert (chart.total, chart.top, chart.width) == (404, 400, 45)


def test_nothing_failed() -> None:
    """Without a failure there is an empty chart."""
    assert bars.by_hour([], 12, 2).total == 0
