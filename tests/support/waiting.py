"""Waiting for a condition with a time-out."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    """Wait until the condition holds. Fail if it does not within ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail("the condition did not come to hold")
        time.sleep(0.01)
