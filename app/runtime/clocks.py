"""The clock that goes on while the machine sleeps."""

from __future__ import annotations

import time


def since_boot() -> float:
    """Return seconds that never step, and that count while the machine is suspended.

    ``time.monotonic`` stops while Linux or macOS is suspended. Systems without ``CLOCK_BOOTTIME``
    have ``CLOCK_MONOTONIC``, which does not stop on macOS.
    """
    return time.clock_gettime(_CLOCK)


_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
