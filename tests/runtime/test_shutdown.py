"""The steps of a stop. Tests with real servers show that a process ends."""

from __future__ import annotations

import pytest

from app.runtime import shutdown


def test_stop_waits_until_nothing_is_unfinished() -> None:
    """A step follows each look that finds unfinished work. The process goes on to a normal end."""
    counts = [{"events": 1, "unrecorded": 0}, {"events": 0, "unrecorded": 1}, {"events": 0}]
    stopped: list[bool] = []

    steps = list(shutdown.begin(lambda: stopped.append(True), lambda: counts.pop(0), 60))
    shutdown.end(dict, lambda: pytest.fail("nothing is to be released"))

    assert (len(steps), stopped) == (2, [True])


def test_stop_does_not_wait_beyond_its_deadline() -> None:
    """Without a grace period there is no step."""
    assert list(shutdown.begin(lambda: None, lambda: {"requests": 1}, 0)) == []
