"""When a failed event is due again."""

from __future__ import annotations

import statistics

from app.processing.retry_policy import LIMITED, RetryPolicy
from app.settings import Settings

SCHEDULE = RetryPolicy(base_seconds=10, cap_seconds=100, max_attempts=5)


def delays(spent: float, times: int = 2000) -> list[float]:
    """Return many delays after so many failures."""
    return [SCHEDULE.plan(spent, asked=None, limited=False, at_least=0.0)[0] for _ in range(times)]


def test_delay_doubles_up_to_its_cap_with_full_jitter() -> None:
    """Each delay is anywhere between nothing and the bound, evenly."""
    for spent, bound in ((0, 10), (1, 20), (2, 40), (4, 100), (5000, 100)):
        found = delays(spent)
        assert 0 <= min(found) < bound * 0.02
        assert bound * 0.98 < max(found) <= bound
        assert bound * 0.45 < statistics.mean(found) < bound * 0.55


def test_each_failure_uses_up_one_attempt() -> None:
    """The last one ends it."""
    spent = 0.0
    for _ in range(5):
        assert not SCHEDULE.is_over(spent)
        _, spent = SCHEDULE.plan(spent, asked=None, limited=False, at_least=0.0)

    assert SCHEDULE.is_over(spent)


def test_rate_limit_waits_as_long_as_it_asks_and_uses_up_less() -> None:
    """A 429 says nothing of the callback."""
    delay, spent = SCHEDULE.plan(0.0, asked=None, limited=True, at_least=70.0)
    assert delay >= 70
    assert spent == LIMITED < 1


def test_callback_sets_the_time_itself() -> None:
    """RetryLater counts as an attempt, and is due exactly then."""
    assert SCHEDULE.plan(1.0, asked=7.0, limited=False, at_least=0.0) == (7.0, 2.0)


def test_defaults_span_three_days() -> None:
    """On average, as Stripe's own redeliveries do."""
    settings = Settings("sk_test_fake", ("whsec_fake",))
    mean_bounds = [
        min(settings.retry_cap_seconds, settings.retry_base_seconds * 2.0**failures) / 2
        for failures in range(settings.max_attempts - 1)
    ]
    assert 2.5 < sum(mean_bounds) / 86400 < 3.5
