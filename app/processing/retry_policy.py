"""When a failed event is due again: exponential back-off with full jitter."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from app.processing.policies import Policy

#: The share of an attempt that a 429 of Stripe's API uses up. It is not an error of the callback,
#: but retries must end.
RATE_LIMITED_ATTEMPT = 0.25


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The delays between attempts, and the number of attempts.

    The n-th delay is random between 0 and ``base_seconds`` x 2^(n-1), at most ``cap_seconds``.
    The jitter spreads events that failed together. The defaults span three days, like Stripe's
    redeliveries (https://docs.stripe.com/webhooks#automatic-retries).
    """

    base_seconds: float
    cap_seconds: float
    max_attempts: int

    def of(self, policy: Policy) -> RetryPolicy:
        """Return the retry policy of a type with this ``policy``."""
        return replace(
            self,
            base_seconds=policy.retry_base_seconds or self.base_seconds,
            max_attempts=policy.max_attempts or self.max_attempts,
        )

    def plan(
        self,
        attempts_used: float,
        *,
        asked: float | None = None,
        rate_limited: bool = False,
        at_least: float = 0.0,
    ) -> tuple[float, float]:
        """Return the seconds until the next attempt, and how many attempts are used up by then.

        ``attempts_used`` is the number before this failure. ``asked`` is the delay of the callback,
        in seconds. When Stripe ``rate_limited`` the callback, the delay is ``at_least`` as long.
        """
        used = attempts_used + (RATE_LIMITED_ATTEMPT if rate_limited else 1)
        if asked is not None:
            return asked, used
        return max(self._jittered(attempts_used), at_least), used

    def is_exhausted(self, attempts_used: float) -> bool:
        """Return whether no attempt is left."""
        return attempts_used >= self.max_attempts

    def _jittered(self, attempts_used: float) -> float:
        # 2.0**1024 would overflow. The cap is reached long before 2.0**60 bases.
        longest = min(self.cap_seconds, self.base_seconds * 2.0 ** min(attempts_used, 60))
        return random.uniform(0, longest)  # noqa: S311 - to spread, not to hide
