"""Waiting for a condition with a time-out."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    """Wait until the condition holds. Fail if it does not within ``seconds``."""
    deadline = time.monotonic() + seconds
    pause = 0.01
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail("the condition did not come to hold")
        time.sleep(pause)
        # Many conditions open an inbox: asked a hundred times a second, they take half a processor.
        pause = min(1.3 * pause, 0.1)
