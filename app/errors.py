"""The exceptions of the service.

Stripe redelivers an event until it gets a 2xx
(https://docs.stripe.com/webhooks#fix-http-status-codes). So the status decides about retries.

A ``DeliveryError`` carries the status of its answer, and its message is sent to Stripe. So is the
message of ``InboxUnavailable``. Stripe stores a message and shows it in its dashboard, so it never
holds a payload, a secret, or the text of another exception. The others are not sent.
"""

from __future__ import annotations

from app.states import Outcome
from app.text import printable

#: The maximum delay of an event in seconds. Stripe lists and resends events for thirty days.
MAX_DELAY_SECONDS = 30 * 86400.0


class StartError(SystemExit):
    """The service cannot start as it is configured.

    It is a ``SystemExit``: under gunicorn and ``flask`` the process ends with status 1 and writes
    only the message to standard error, without a traceback.
    """

    def __init__(self, headline: str, problems: list[str]) -> None:
        """Take a ``headline`` and all ``problems``, one sentence each with its remedy.

        A problem is one line, without control characters: it may quote text of other programs.
        """
        self.problems = [printable(problem) for problem in problems]
        super().__init__("\n".join([headline, *(f"  - {each}" for each in self.problems)]))


class GiveUp(Exception):
    """Raise it from a callback when the event can never succeed and needs a person.

    The event is marked dead with the reason. Inline, the delivery is answered 200; in queue mode it
    was already.
    """

    def __init__(self, reason: str) -> None:
        """Take the ``reason``, which is shown with the event."""
        self.reason = str(reason)  # str() here, so that an error in it is a failure of the callback
        super().__init__(self.reason)


class RetryLater(Exception):
    """Raise it from a callback to run the event again after a delay.

    The attempt counts as a failure, but the callback sets the delay instead of the retry policy. In
    inline mode Stripe decides when it delivers the event again.
    """

    def __init__(self, seconds: float, reason: str = "the callback asked for it") -> None:
        """Take the delay in ``seconds``, and the ``reason``, which is shown with the event.

        The maximum is thirty days: Stripe keeps an event no longer.
        """
        self.seconds = min(max(0.0, float(seconds)), MAX_DELAY_SECONDS)
        self.reason = str(reason)
        super().__init__(f"again in {self.seconds:g} s: {self.reason}")


class DeliveryError(Exception):
    """A delivery whose answer is not a 2xx."""

    status: int = 500
    outcome: Outcome = Outcome.FAILED

    def __init__(self, message: str, *, reason: str, retry_after: int | None = None) -> None:
        """Take the ``message`` of the answer, and a short ``reason`` for the log.

        ``retry_after`` is the header of that name, in seconds.
        """
        self.message = message
        self.reason = reason
        self.retry_after = retry_after
        super().__init__(message)


class Refused(DeliveryError):
    """The delivery is not authentic, or no event. Nothing was recorded."""

    status = 400
    outcome = Outcome.REFUSED


class TooLarge(Refused):
    """The body is larger than ``MAX_BODY_BYTES``. It was not read completely."""

    status = 413


class Deferred(DeliveryError):
    """The event runs under another claim.

    If that process died after a 2xx, the event would be lost. So Stripe has to redeliver.
    """

    status = 409
    outcome = Outcome.DEFERRED


class CallbackFailed(DeliveryError):
    """The callback raised. The event is pending again, and Stripe redelivers it."""

    status = 500
    outcome = Outcome.FAILED


class Stopping(DeliveryError):
    """The process is shutting down. Another process gets Stripe's next delivery."""

    status = 503
    outcome = Outcome.UNAVAILABLE


class InboxUnavailable(Exception):
    """The inbox cannot be reached or written. ``app/web`` answers it with 503."""

    outcome = Outcome.UNAVAILABLE

    def __init__(self, message: str, *, reason: str) -> None:
        """Take the ``message`` for a person, and a short ``reason`` for the log."""
        self.message = message
        self.reason = reason
        super().__init__(message)


class MigrationPending(InboxUnavailable):
    """The tables are older than this version, and ``MIGRATE=check`` forbids their migration."""

    def __init__(self, current: str | None, newest: str) -> None:
        """Take the revision of the tables, None if there are none, and the one of this version."""
        found = (
            f"the inbox's tables are at revision {current}" if current else "there are no tables"
        )
        super().__init__(
            "the inbox waits for a migration: run `flask db upgrade`",
            reason=f"{found}, and this version needs revision {newest}",
        )


class Unstorable(Exception):
    """The database rejects a value, such as a character that its encoding lacks.

    Unlike ``InboxUnavailable`` this is no outage: the same statement always fails.
    """
