"""When a failed event is due again: exponential back-off with full jitter."""

from __future__ import annotations

import random
from dataclasses import dataclass

#: What a rate limit of Stripe's uses up, where a failure uses up 1: it says nothing of the
#: callback, but an event may not wait for ever either.
LIMITED = 0.25


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The delays between attempts, and how many attempts there are.

    The n-th delay is random between 0 and ``base_seconds`` x 2^(n-1), at most ``cap_seconds``.
    The jitter spreads what failed together; the defaults span three days, as Stripe's own
    redeliveries do (https://docs.stripe.com/webhooks#automatic-retries).
    """

    base_seconds: float
    cap_seconds: float
    max_attempts: int

    def plan(
        self, spent: float, *, asked: float | None, limited: bool, at_least: float
    ) -> tuple[float, float]:
        """Return the seconds until the next attempt, and what is used up by then.

        ``spent`` is what was used up before, ``asked`` the seconds that the callback wants.
        When it was ``limited`` by Stripe's rate limit, it waits ``at_least`` so many seconds.
        """
        used = spent + (LIMITED if limited else 1)
        if asked is not None:
            return asked, used
        return max(self._jittered(spent), at_least if limited else 0.0), used

    def is_over(self, spent: float) -> bool:
        """Whether no attempt is left."""
        return spent >= self.max_attempts

    def _jittered(self, spent: float) -> float:
        # 2.0**1024 would overflow; the cap is reached long before 2.0**60 bases.
        most = min(self.cap_seconds, self.base_seconds * 2.0 ** min(spent, 60))
        return random.uniform(0, most)  # noqa: S311 - to spread, not to hide
