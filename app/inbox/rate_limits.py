"""Rate limits that all processes of an inbox share."""

from __future__ import annotations

from app.inbox.sql import rate_limit
from app.inbox.store import Store


class RateLimits:
    """Hands out slots for requests to Stripe's API."""

    def __init__(self, store: Store) -> None:
        """Take the ``store`` of the slots."""
        self._store = store

    def reserve(self, bucket: str, slots: int, interval: float) -> tuple[float, float]:
        """Reserve slots for requests, ``interval`` seconds apart.

        Returns in how many seconds the first one is, and how far apart they are.
        """
        row = self._store.write(
            rate_limit.RESERVE, name=bucket, slots=float(slots), interval=interval
        )
        assert row is not None  # noqa: S101 - an upsert without a WHERE always returns its row
        end, pace = row
        return end - slots * pace, pace

    def slow_down(self, bucket: str, *, pause: float, slow: float) -> None:
        """Let the bucket have no slot for ``pause`` seconds, and half as many for ``slow``."""
        self._store.write(rate_limit.SLOW_DOWN, name=bucket, pause=pause, slow=slow)
