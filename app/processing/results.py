"""Classifies the end of an attempt: done, to be retried, or dead.

A callback can raise anything, and the code of its exception can raise too. Classifying never fails:
a text that cannot be read or stored is replaced.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace

import stripe
import structlog

from app.errors import MAX_DELAY_SECONDS, GiveUp, RetryLater
from app.inbox import Claim, Failure
from app.processing.fingerprints import cause_of
from app.processing.retry_policy import RetryPolicy
from app.states import SUCCESSES, Outcome
from app.text import head, printed_traceback, storable

log = structlog.get_logger(__name__)

#: The maximum length of a stored reason, in characters. A person reads it.
REASON_LENGTH = 1000

#: The maximum length of a stored traceback. It keeps its beginning, and its end with the exception.
TRACEBACK_LENGTH = 8000

#: Errors before the callback that a retry can cure. The SDK imports the class of an event at the
#: first event of that type.
TRANSIENT = (OSError, MemoryError, ImportError, SystemExit)

UNKNOWN = "an error whose text cannot be read"


@dataclass(frozen=True, slots=True)
class Result:
    """The result of an attempt. ``failure`` is None after a success.

    ``outcome`` is ``handled``, ``fallback``, ``twin``, ``shadow``, ``failed``, ``gave_up``,
    ``unreadable``, ``exhausted`` or ``unrecorded``. A shadow can have a failure, too.
    """

    outcome: Outcome
    failure: Failure | None = None

    @property
    def is_dead(self) -> bool:
        """Whether the event needs a person now."""
        return self.outcome not in {*SUCCESSES, Outcome.FAILED}

    def fallbacks(self) -> list[Result]:
        """Return the results to record if the inbox cannot store this one, the best first."""
        attempt = (
            "the callback succeeded" if self.failure is None else f"the attempt {self.outcome}"
        )
        unrecorded = f"{attempt}, but that could not be recorded"
        if self.failure is None:
            return [Result(Outcome.UNRECORDED, Failure(unrecorded))]
        reason = self.failure.reason.encode("ascii", "backslashreplace").decode()
        plain = replace(self.failure, reason=reason[:REASON_LENGTH], traceback=None)
        last = replace(plain, reason=unrecorded, delay=0.0, attempts_used=None)
        return [replace(self, failure=plain), Result(Outcome.UNRECORDED, last)]


class Classifier:
    """Decides the result of an attempt that raised."""

    def __init__(
        self,
        retry_policy_of: Callable[[str], RetryPolicy] | None,
        redact: Callable[[str], str],
        *,
        package: str,
        release: str | None,
    ) -> None:
        """Take the function that returns the policy of a type, and one that redacts secrets.

        Without the former, Stripe decides when it delivers the event again. ``package`` is the one
        of the handler modules, and ``release`` that of this process.
        """
        self._retry_policy_of = retry_policy_of
        self._redact = redact
        self._package = package
        self._release = release

    def classify(self, claim: Claim, error: BaseException, *, entered: bool) -> Result:
        """Return the result for this ``error``, and log it. Raises nothing.

        ``entered``: the callback raised it. Otherwise reading the body did.
        """
        try:
            return self._classify(claim, error, entered=entered)
        except BaseException:  # reading the error runs the callback's own code
            log.exception("error_not_judged")
            return self._plan(claim, self._failure(error, UNKNOWN))

    def note_shadow(self, error: BaseException) -> Failure:
        """Log the ``error`` of a shadow, and return it to be stored. Raises nothing.

        It has no error group: groups are counted and alerted.
        """
        try:
            log.warning("shadow_failed", exc_info=error)
            return Failure(self._reason(error), self._traceback(error), release=self._release)
        except BaseException:  # reading the error runs the callback's own code
            log.exception("error_not_judged")
            return Failure(UNKNOWN, release=self._release)

    def _classify(self, claim: Claim, error: BaseException, *, entered: bool) -> Result:
        failure = self._failure(error, self._reason(error), self._traceback(error))
        group = failure.fingerprint
        if not entered and not isinstance(error, TRANSIENT):
            # Only the type: the reason may quote the body. The inbox stores the reason.
            log.error("event_unreadable", reason=type(error).__name__, group=group)
            return Result(Outcome.UNREADABLE, failure)
        if isinstance(error, GiveUp):
            # A subclass may have no ``reason``.
            reason = self._clean(_text(getattr(error, "reason", error)))
            log.error("callback_gave_up", reason=reason, group=group)
            return Result(Outcome.GAVE_UP, replace(failure, reason=reason))
        log.error("callback_raised", group=group, exc_info=error)
        if isinstance(error, RetryLater):
            return self._plan(claim, failure, asked=_delay(getattr(error, "seconds", None)))
        if isinstance(error, stripe.RateLimitError):
            return self._plan(claim, failure, rate_limited=True, at_least=_retry_after(error))
        return self._plan(claim, failure)

    def _failure(self, error: BaseException, reason: str, printed: str | None = None) -> Failure:
        """Return the failure with its error group."""
        return Failure(
            reason, printed, release=self._release, **cause_of(error, self._package)._asdict()
        )

    def _plan(
        self,
        claim: Claim,
        failure: Failure,
        *,
        asked: float | None = None,
        rate_limited: bool = False,
        at_least: float = 0.0,
    ) -> Result:
        """Return the result of a failure: a retry, or dead when no attempt is left."""
        if self._retry_policy_of is None:
            return Result(Outcome.FAILED, replace(failure, delay=asked or 0.0))
        policy = self._retry_policy_of(claim.type)
        delay, used = policy.plan(
            claim.attempts_used, asked=asked, rate_limited=rate_limited, at_least=at_least
        )
        failure = replace(failure, delay=delay, attempts_used=used)
        if policy.is_exhausted(used):
            log.error("attempts_exhausted")
            return Result(Outcome.EXHAUSTED, failure)
        log.info("retry_planned", delay_seconds=round(delay, 3))
        return Result(Outcome.FAILED, failure)

    def _reason(self, error: BaseException) -> str:
        # format_exception_only() survives an exception whose own __str__ raises.
        return self._clean("".join(traceback.format_exception_only(error)).strip())

    def _clean(self, text: str) -> str:
        """Return ``text`` without secrets, shortened, and storable in both databases."""
        return storable(head(text, REASON_LENGTH, self._redact))

    def _traceback(self, error: BaseException) -> str:
        """Return the traceback as Python prints it: with lines of code, without local variables."""
        return storable(printed_traceback(error, TRACEBACK_LENGTH, self._redact))


def _text(value: object) -> str:
    try:
        return str(value)
    except BaseException:  # noqa: BLE001 - str() runs the callback's own code
        return UNKNOWN


def _delay(seconds: object) -> float | None:
    """Return the delay of a ``RetryLater`` in seconds, or None if it is not a number."""
    try:
        asked = float(seconds)  # type: ignore[arg-type]  # a callback can set anything
    except (TypeError, ValueError, OverflowError):
        return None
    return None if math.isnan(asked) else min(max(0.0, asked), MAX_DELAY_SECONDS)


def _retry_after(error: BaseException) -> float:
    """Return the seconds of Stripe's ``Retry-After`` header, at most thirty days."""
    headers = getattr(error, "headers", None) or {}
    asked = str({str(name).lower(): value for name, value in headers.items()}.get("retry-after"))
    return min(float(asked), MAX_DELAY_SECONDS) if asked.isascii() and asked.isdigit() else 0.0
