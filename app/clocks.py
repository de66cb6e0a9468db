"""The clock that goes on while the machine sleeps."""

from __future__ import annotations

import time


def since_boot() -> float:
    """Return seconds that never step, and that count while the machine is suspended.

    ``time.monotonic`` stands still then on Linux. Where the system has no such clock, it is
    ``time.monotonic``.
    """
    return time.clock_gettime(_CLOCK)


_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
