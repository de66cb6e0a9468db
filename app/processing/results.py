"""Decides the result of an attempt: done, to be retried, or dead.

A callback can raise anything, and the code of its exception can raise too. Judging never fails: a
text that cannot be read or stored is replaced.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace

import stripe
import structlog

from app.errors import LONGEST_DELAY, GiveUp, RetryLater
from app.inbox import Claim, Failure
from app.processing.retry_policy import RetryPolicy
from app.states import Outcome
from app.text import head, printed_traceback, storable

log = structlog.get_logger(__name__)

#: Characters of a reason that are kept. It is for a person to read, not a store.
REASON_LENGTH = 1000

#: Characters of a traceback that are kept: of its beginning, and of its end with the exception.
TRACEBACK_LENGTH = 8000

#: Errors before the callback that come from this process, not from the notification. The SDK
#: imports the class of an event when it first meets its type.
PASSING = (OSError, MemoryError, ImportError, SystemExit)

UNKNOWN = "an error whose text cannot be read"


@dataclass(frozen=True, slots=True)
class Result:
    """The result of an attempt. ``failure`` is None after a success.

    ``outcome`` is ``handled``, ``failed``, ``gave_up``, ``unreadable``, ``exhausted`` or
    ``unrecorded``.
    """

    outcome: Outcome
    failure: Failure | None = None

    @property
    def is_dead(self) -> bool:
        """Whether the event needs a person now."""
        return self.outcome not in {Outcome.HANDLED, Outcome.FAILED}

    def fallbacks(self) -> list[Result]:
        """Return what to record where the inbox cannot store this, the best one first."""
        said = "the callback succeeded" if self.failure is None else f"the attempt {self.outcome}"
        last = Result(Outcome.UNRECORDED, Failure(f"{said}, but that could not be recorded"))
        if self.failure is None:
            return [last]
        reason = self.failure.reason.encode("ascii", "backslashreplace").decode()
        plain = replace(self.failure, reason=reason[:REASON_LENGTH], traceback=None)
        return [replace(self, failure=plain), last]


class Judge:
    """Decides what an error means for its event."""

    def __init__(self, schedule: RetryPolicy | None, redact: Callable[[str], str]) -> None:
        """Take the retry ``schedule``, and a function that redacts secrets.

        Without a schedule Stripe decides when it delivers the event again.
        """
        self._schedule = schedule
        self._redact = redact

    def judge(self, claim: Claim, error: BaseException, *, entered: bool) -> Result:
        """Return what an ``error`` means. ``entered``: whether the callback raised it.

        Logs it. Raises nothing.
        """
        try:
            return self._judge(claim, error, entered=entered)
        except BaseException:  # reading the error runs the callback's own code
            log.exception("error_not_judged", attempt=claim.attempt)
            return self._plan(claim, Failure(UNKNOWN))

    def _judge(self, claim: Claim, error: BaseException, *, entered: bool) -> Result:
        failure = Failure(self._reason(error), self._traceback(error))
        if not entered and not isinstance(error, PASSING):
            # Not the whole reason, which may quote the body. The inbox has it.
            log.error("event_unreadable", attempt=claim.attempt, reason=type(error).__name__)
            return Result(Outcome.UNREADABLE, failure)
        if isinstance(error, GiveUp):
            # A subclass may have no ``reason``.
            reason = self._clean(_text(getattr(error, "reason", error)))
            log.error("callback_gave_up", attempt=claim.attempt, reason=reason)
            return Result(Outcome.GAVE_UP, replace(failure, reason=reason))
        log.error("callback_raised", attempt=claim.attempt, exc_info=error)
        if isinstance(error, RetryLater):
            return self._plan(claim, failure, asked=_delay(getattr(error, "seconds", None)))
        if isinstance(error, stripe.RateLimitError):
            return self._plan(claim, failure, limited=True, at_least=_retry_after(error))
        return self._plan(claim, failure)

    def _plan(
        self,
        claim: Claim,
        failure: Failure,
        *,
        asked: float | None = None,
        limited: bool = False,
        at_least: float = 0.0,
    ) -> Result:
        """Say when the event is due again, or that its attempts are used up."""
        if self._schedule is None:
            return Result(Outcome.FAILED, replace(failure, delay=asked or 0.0))
        delay, spent = self._schedule.plan(
            claim.attempts_used, asked=asked, limited=limited, at_least=at_least
        )
        failure = replace(failure, delay=delay, attempts_used=spent)
        if self._schedule.is_over(spent):
            log.error("attempts_exhausted", attempt=claim.attempt)
            return Result(Outcome.EXHAUSTED, failure)
        log.info("retry_planned", attempt=claim.attempt, delay_seconds=round(delay, 3))
        return Result(Outcome.FAILED, failure)

    def _reason(self, error: BaseException) -> str:
        # format_exception_only() survives an exception whose own __str__ raises.
        return self._clean("".join(traceback.format_exception_only(error)).strip())

    def _clean(self, text: str) -> str:
        """Return ``text`` as both databases can store it, without secrets, and not long."""
        return storable(head(text, REASON_LENGTH, self._redact))

    def _traceback(self, error: BaseException) -> str:
        """Return the traceback as it is printed: with lines of code, without local variables."""
        return storable(printed_traceback(error, TRACEBACK_LENGTH, self._redact))


def _text(value: object) -> str:
    try:
        return str(value)
    except BaseException:  # noqa: BLE001 - it is the callback's own code
        return UNKNOWN


def _delay(seconds: object) -> float | None:
    """Return the seconds that a callback asks for, or None if it is no number of seconds."""
    try:
        asked = float(seconds)  # type: ignore[arg-type]  # a callback can set anything
    except (TypeError, ValueError, OverflowError):
        return None
    return None if math.isnan(asked) else min(max(0.0, asked), LONGEST_DELAY)


def _retry_after(error: BaseException) -> float:
    """Return for how many seconds Stripe's API asks to be left alone, at most thirty days."""
    headers = getattr(error, "headers", None) or {}
    asked = str({str(name).lower(): value for name, value in headers.items()}.get("retry-after"))
    return min(float(asked), LONGEST_DELAY) if asked.isascii() and asked.isdigit() else 0.0
