"""The delays between attempts, and the end of them."""

from __future__ import annotations

import statistics

from app.processing.retry_policy import RATE_LIMITED_ATTEMPT, RetryPolicy
from app.settings import Settings

POLICY = RetryPolicy(base_seconds=10, cap_seconds=100, max_attempts=5)


def delays(attempts_used: float) -> list[float]:
    """Return 2,000 delays after this many failures."""
    return [POLICY.plan(attempts_used)[0] for _ in range(2000)]


def test_delay_doubles_up_to_its_cap_with_full_jitter() -> None:
    """Delays are spread evenly between zero and the bound."""
    for attempts_used, bound in ((0, 10), (1, 20), (2, 40), (4, 100), (5000, 100)):
        found = delays(attempts_used)
        assert 0 <= min(found) < bound * 0.02
        assert bound * 0.98 < max(found) <= bound
        assert bound * 0.45 < statistics.mean(found) < bound * 0.55


def test_each_failure_uses_up_one_attempt() -> None:
    """After the last one no attempt is left."""
    attempts_used = 0.0
    for _ in range(5):
        assert not POLICY.is_exhausted(attempts_used)
        _, attempts_used = POLICY.plan(attempts_used)

    assert POLICY.is_exhausted(attempts_used)


def test_rate_limit_delays_by_retry_after_and_uses_up_less_than_an_attempt() -> None:
    """A 429 of Stripe's API is no error of the callback."""
    delay, attempts_used = POLICY.plan(0.0, rate_limited=True, at_least=70.0)
    assert delay >= 70
    assert attempts_used == RATE_LIMITED_ATTEMPT < 1


def test_callback_sets_the_delay() -> None:
    """RetryLater uses up an attempt, and its delay is exact."""
    assert POLICY.plan(1.0, asked=7.0) == (7.0, 2.0)


def test_defaults_span_three_days() -> None:
    """The average sum of all delays is that of Stripe's redeliveries."""
    settings = Settings("sk_test_fake", ("whsec_fake",))
    mean_bounds = [
        min(settings.retry_cap_seconds, settings.retry_base_seconds * 2.0**failures) / 2
        for failures in range(settings.max_attempts - 1)
    ]
    assert 2.5 < sum(mean_bounds) / 86400 < 3.5
