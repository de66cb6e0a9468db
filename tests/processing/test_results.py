"""Classifying an error never fails, for any error."""

from __future__ import annotations

from typing import Any

import pytest

from app.errors import MAX_DELAY_SECONDS, GiveUp, RetryLater
from app.inbox import Claim, Failure
from app.processing.results import UNKNOWN, Classifier, Result
from app.processing.retry_policy import RetryPolicy
from app.states import Outcome

CLAIM = Claim("evt_1", 1, "v1.x", b"{}", "token")


def make_classifier() -> Classifier:
    """Return a classifier with a retry policy of two attempts."""
    policy = RetryPolicy(base_seconds=1.0, cap_seconds=1.0, max_attempts=2)
    return Classifier(lambda _type: policy, lambda text: text, package="handlers", release="1.4.2")


class Hostile(Exception):
    """An error that raises when its class is read."""

    @property  # type: ignore[misc]  # what a callback can do
    def __class__(self) -> Any:
        """Raise. ``isinstance`` reads this attribute."""
        raise SystemExit(3)


class Mute(GiveUp):
    """A GiveUp whose reason cannot become text."""

    def __init__(self) -> None:
        """Take nothing."""
        self.reason = self  # type: ignore[assignment]  # what a callback can do

    def __str__(self) -> str:
        """Raise."""
        raise ValueError("no text")


def test_error_that_cannot_be_read_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    """The failure uses up an attempt, and the event is retried."""
    result = make_classifier().classify(CLAIM, Hostile(), entered=True)

    assert result.outcome is Outcome.FAILED
    assert result.failure is not None
    assert (result.failure.reason, result.failure.attempts_used) == (UNKNOWN, 1)
    printed = capsys.readouterr()
    assert "error_not_judged" in printed.out + printed.err


def test_reason_without_a_text_is_replaced() -> None:
    """The event is dead all the same."""
    result = make_classifier().classify(CLAIM, Mute(), entered=True)

    assert result.outcome is Outcome.GAVE_UP
    assert result.failure is not None
    assert result.failure.reason == UNKNOWN


@pytest.mark.parametrize(
    ("seconds", "delay"),
    [
        (7, 7.0),
        ("8", 8.0),
        (-5, 0.0),
        (float("inf"), MAX_DELAY_SECONDS),
        pytest.param(10**400, None, id="huge"),
        ("soon", None),
        (float("nan"), None),
        (None, None),
    ],
)
def test_delay_that_is_no_number_is_ignored(seconds: object, delay: float | None) -> None:
    """The delay is limited to thirty days. The retry policy replaces one that is no number."""
    error = RetryLater(1)
    error.seconds = seconds  # type: ignore[assignment]  # what a callback can do
    result = make_classifier().classify(CLAIM, error, entered=True)

    assert result.failure is not None
    if delay is None:
        assert 0 <= result.failure.delay <= 1
    else:
        assert result.failure.delay == delay


def test_text_that_cannot_be_stored_has_fallbacks() -> None:
    """First the reason in ASCII, then dead with a reason of the service, in the same group."""
    group: dict[str, Any] = {
        "fingerprint": "f00d",
        "exception": "ValueError",
        "place": "a.py:1",
        "release": "1",
    }
    failure = Failure("ValueError: \u2192", "Traceback", delay=3, attempts_used=1, **group)
    plain, last = Result(Outcome.FAILED, failure).fallbacks()

    assert plain == Result(
        Outcome.FAILED, Failure("ValueError: \\u2192", None, delay=3, attempts_used=1, **group)
    )
    assert last == Result(
        Outcome.UNRECORDED, Failure("the attempt failed, but that could not be recorded", **group)
    )
    assert last.is_dead
