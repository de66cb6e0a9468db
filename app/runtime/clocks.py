"""A monotonic clock that also runs while the machine is suspended."""

from __future__ import annotations

import time


def since_boot() -> float:
    """Return seconds of a clock that never steps and runs while the machine is suspended.

    ``time.monotonic`` stops while Linux or macOS is suspended. Where there is no
    ``CLOCK_BOOTTIME``, ``CLOCK_MONOTONIC`` is used, which does not stop on macOS.
    """
    return time.clock_gettime(_CLOCK)


_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
