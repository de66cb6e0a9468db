"""What can go wrong, and the HTTP status that each of it means.

To Stripe the status is an instruction: every 2xx ends its interest in the event, everything
else asks for another delivery (https://docs.stripe.com/webhooks#fix-http-status-codes). So the
status stands here, on the class of the error, and nowhere else.

The text of these errors is written for the answer: it never holds a payload, a secret, or the
text of another exception, because Stripe keeps answers and shows them in its dashboard.
"""

from __future__ import annotations

from app.states import Outcome
from app.text import head, printable, redactor, type_name

#: Characters of a database's error that are shown.
LINE_LENGTH = 500

_redact = redactor(())

#: Seconds that an event can be put off. Stripe lists and resends events for thirty days.
LONGEST_DELAY = 30 * 86400.0


class StartError(SystemExit):
    """The service cannot start as it is configured.

    It is a ``SystemExit``, so that under gunicorn and ``flask`` alike the process ends with
    status 1 and the message alone on standard error, without a traceback.
    """

    def __init__(self, headline: str, problems: list[str]) -> None:
        """Take a ``headline`` and every problem found, one sentence each with its remedy."""
        self.problems = problems
        super().__init__("\n".join([headline, *(f"  - {problem}" for problem in problems)]))


class GiveUp(Exception):
    """Raise it from a callback: this event will never succeed, show it to a person.

    The event becomes ``dead`` with the reason; Stripe is answered 200 and does not redeliver.
    """

    def __init__(self, reason: str) -> None:
        """Take the ``reason`` that the person who looks at the event will read."""
        self.reason = str(reason)  # here: when str() raises, the callback has failed
        super().__init__(self.reason)


class RetryLater(Exception):
    """Raise it from a callback: run this event again, but not before ``seconds`` have passed.

    It is an attempt that failed like any other, except that the callback says when the next one
    is due. In inline mode Stripe decides when it delivers the event again.
    """

    def __init__(self, seconds: float, reason: str = "the callback asked for it") -> None:
        """Take the ``seconds`` to wait, and the ``reason`` for the person who looks at it.

        At most thirty days: Stripe keeps an event no longer.
        """
        self.seconds = min(max(0.0, float(seconds)), LONGEST_DELAY)
        self.reason = str(reason)
        super().__init__(f"again in {self.seconds:g} s: {self.reason}")


class DeliveryError(Exception):
    """A delivery that is not answered with 2xx."""

    status: int = 500
    outcome: Outcome = Outcome.FAILED

    def __init__(self, message: str, *, reason: str, retry_after: int | None = None) -> None:
        """Take the ``message`` for the answer, a short ``reason`` for the log, and seconds.

        ``retry_after`` is sent as the header of that name when it is given.
        """
        self.message = message
        self.reason = reason
        self.retry_after = retry_after
        super().__init__(message)


class Refused(DeliveryError):
    """The delivery is not authentic, or not an event notification. Nothing was recorded."""

    status = 400
    outcome = Outcome.REFUSED


class TooLarge(Refused):
    """The body is larger than ``MAX_BODY_BYTES``. It was not read to its end."""

    status = 413


class Deferred(DeliveryError):
    """The event is running under a live lease elsewhere.

    A 2xx would lose the event if that runner died, so Stripe is asked to come back.
    """

    status = 409
    outcome = Outcome.DEFERRED


class CallbackFailed(DeliveryError):
    """The callback raised. The event is pending again and Stripe will redeliver it."""

    status = 500
    outcome = Outcome.FAILED


class Stopping(DeliveryError):
    """The process is shutting down. Stripe's next delivery reaches another one."""

    status = 503
    outcome = Outcome.UNAVAILABLE


class InboxUnavailable(Exception):
    """The inbox cannot be reached or written. The room ``web`` makes a status of it."""

    outcome = Outcome.UNAVAILABLE

    def __init__(self, message: str, *, reason: str) -> None:
        """Take the ``message`` for a person, and a short ``reason`` for the log."""
        self.message = message
        self.reason = reason
        super().__init__(message)


class Unstorable(Exception):
    """The database refuses a value, such as a character that its encoding lacks.

    Unlike ``InboxUnavailable`` it is no outage: the same statement fails for ever.
    """


def in_one_line(error: BaseException) -> str:
    """Return a database's ``error`` as a log may show it: its type, and the first line of its text.

    PostgreSQL's further lines can quote the row, and so the body. Of a line that is longer than
    500 characters the beginning is returned.
    """
    cause = getattr(error, "orig", error)
    try:
        lines = head(str(cause).strip(), LINE_LENGTH, _redact).splitlines() or [""]
    except Exception as failure:  # noqa: BLE001 - a driver's own code can raise anything
        lines = [f"not shown: {type_name(failure)}"]
    return f"{type(cause).__name__}: {printable(lines[0])}"
