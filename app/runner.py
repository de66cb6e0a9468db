"""Runs one claimed event through the SDK's handler, and settles what became of it.

Deliveries, retries and reconciliation all come through ``Runner.run``: there is one way to run
an event, and one SDK handler in a process, shared by all threads.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, replace
from typing import Any

import stripe
import structlog

from app import fetched, forks
from app.errors import CallbackFailed, Deferred, GiveUp, RetryLater
from app.inbox import Claim, Failure, Inbox
from app.leases import Leases
from app.registry import Callback, Module, Registry
from app.schedule import Schedule

log = structlog.get_logger(__name__)

#: Characters of a reason that are kept. It is for a person to read, not a store.
REASON_LENGTH = 1000

#: Characters of a traceback that are kept, the last ones: they say where it happened.
TRACEBACK_LENGTH = 8000

#: Errors before the callback that say something of this process, not of the notification: the
#: SDK imports the class of an event when it first meets its type.
PASSING = (OSError, MemoryError, ImportError, SystemExit)


@dataclass(slots=True)
class _Run:
    """One call of the SDK's handler, and whether it came as far as the callback."""

    claim: Claim
    entered: bool = False


#: The run that this context is of. The SDK calls the callbacks with nothing of ours.
_current: ContextVar[_Run] = ContextVar("current_run")


class Runner:
    """Runs claims, one at a time in each thread that calls it."""

    def __init__(  # noqa: PLR0913 - the parts, each named
        self,
        registry: Registry,
        client: stripe.StripeClient,
        inbox: Inbox,
        leases: Leases,
        *,
        schedule: Schedule | None,
        redact: Callable[[str], str],
    ) -> None:
        """Take the parts, and build the SDK's handler from the ``registry``.

        With a ``schedule`` a failed event is retried by it, and given up on at its end; without
        one Stripe decides when it delivers the event again. ``redact`` takes the secrets out of
        what an exception says.
        """
        self._inbox = inbox
        self._leases = leases
        self._schedule = schedule
        self._redact = redact
        self._handler = registry.register(client, wrap=_wrap)

    def is_running(self, event_id: str) -> bool:
        """Whether a callback for this event runs in this process, claim or no claim.

        After an outage of the inbox that was longer than the lease the event could be claimed
        again, beside the callback that still runs here.
        """
        return self._leases.holds(event_id)

    def settle_first(self, event_id: str) -> None:
        """Record what became of this event, if the inbox could not be reached when it ended.

        To be called before the event is claimed. Raises ``Unavailable``.
        """
        self._leases.settle_first(event_id)

    def run(self, claim: Claim) -> str:
        """Run the callback for ``claim`` and return the outcome once it is recorded.

        Returns ``handled``, ``gave_up``, ``unreadable`` or, at the end of the schedule,
        ``exhausted``. Raises ``CallbackFailed`` when the callback raised (the event is pending
        again), ``Deferred`` when another attempt took the event meanwhile, ``Unavailable`` when
        the outcome could not be recorded yet.
        """
        return copy_context().run(self._run, claim)

    def _run(self, claim: Claim) -> str:
        structlog.contextvars.bind_contextvars(**_names(claim))
        with self._leases.held(claim):
            outcome, settle = self._call(claim)
            self._settle(claim, settle)
        if outcome == "failed":
            raise CallbackFailed("the callback failed; the event will be retried", reason="raised")
        return outcome

    def _call(self, claim: Claim) -> tuple[str, Callable[[], bool]]:
        """Call the SDK's handler. Returns the outcome, and how to record it."""
        run = _Run(claim)
        try:
            # What the callback binds to its lines must stand neither in ours nor in the next run's.
            copy_context().run(self._handle, run)
        except KeyboardInterrupt:
            self._inbox.fail(claim, Failure("interrupted"))
            raise
        except BaseException as error:  # noqa: BLE001 - sys.exit() is a failure like any other
            return self._judge(run, error)
        return "handled", lambda: self._inbox.finish(claim)

    def _handle(self, run: _Run) -> None:
        _current.set(run)
        fetched.begin()
        with forks.ending_in_the_block():
            self._handler.handle(run.claim.body)

    def _judge(self, run: _Run, error: BaseException) -> tuple[str, Callable[[], bool]]:
        """Say what an ``error`` means: for an event that it can never, or not now, be run."""
        claim = run.claim
        failure = Failure(self._reason(error), self._traceback(error))
        if not run.entered and not isinstance(error, PASSING):
            # Not the whole reason, which may quote the body. The inbox has it.
            log.error("event_unreadable", attempt=claim.attempt, reason=type(error).__name__)
            return "unreadable", lambda: self._inbox.bury(claim, "unreadable", failure)
        if isinstance(error, GiveUp):
            # A subclass may have none.
            reason = self._clean(str(getattr(error, "reason", error)))
            log.error("callback_gave_up", attempt=claim.attempt, reason=reason)
            given = replace(failure, reason=reason)
            return "gave_up", lambda: self._inbox.bury(claim, "gave_up", given)
        log.error("callback_raised", attempt=claim.attempt, exc_info=error)
        return self._retry(claim, error, failure)

    def _retry(
        self, claim: Claim, error: BaseException, failure: Failure
    ) -> tuple[str, Callable[[], bool]]:
        """Say when the event is due again, or that its attempts are used up."""
        asked = getattr(error, "seconds", 0.0) if isinstance(error, RetryLater) else None
        if self._schedule is None:
            due = replace(failure, delay=asked or 0.0)
            return "failed", lambda: self._inbox.fail(claim, due)
        limited = isinstance(error, stripe.RateLimitError)
        delay, spent = self._schedule.plan(
            claim.spent,
            asked=asked,
            limited=limited,
            at_least=_retry_after(error) if limited else 0.0,
        )
        failure = replace(failure, delay=delay, spent=spent)
        if self._schedule.is_over(spent):
            log.error("attempts_exhausted", attempt=claim.attempt)
            return "exhausted", lambda: self._inbox.bury(claim, "exhausted", failure)
        log.info("retry_planned", attempt=claim.attempt, delay_seconds=round(delay, 3))
        return "failed", lambda: self._inbox.fail(claim, failure)

    def _reason(self, error: BaseException) -> str:
        # format_exception_only() survives an exception whose own __str__ raises.
        return self._clean("".join(traceback.format_exception_only(error)).strip())

    def _clean(self, text: str) -> str:
        """Return ``text`` as both databases can store it, without secrets, and not long."""
        # Secrets go first: a part of one would not be known for what it is.
        return self._redact(_storable(text))[:REASON_LENGTH]

    def _traceback(self, error: BaseException) -> str:
        """Return the traceback as it is printed: with lines of code, without local variables."""
        printed = "".join(traceback.format_exception(error))
        return self._redact(_storable(printed))[-TRACEBACK_LENGTH:]

    def _settle(self, claim: Claim, settle: Callable[[], bool]) -> None:
        try:
            settled = settle()
        except Exception:  # whatever it is, the result must not be forgotten
            self._leases.settle_later(claim, settle)
            raise
        if not settled:
            log.warning("claim_lost", attempt=claim.attempt)
            raise Deferred(
                "the event was taken over by another attempt", reason="claim_lost", retry_after=1
            )


def _names(claim: Claim) -> dict[str, str]:
    """Return what every line of this run carries."""
    names = {"event_id": claim.event_id, "event_type": claim.type}
    return names if claim.context is None else {**names, "context": claim.context}


def _wrap(module: Module) -> Callback:
    """Return the module's callback as it is given to the SDK's handler.

    What is raised before the wrapped callback is entered comes from reading the notification,
    what is raised after that from the callback: by their types they cannot be told apart.
    """
    callback = module.callback

    def call(notif: Any, client: stripe.StripeClient, *details: Any) -> None:
        run = _current.get()
        # The SDK unwraps envelopes of other services, and then reads what is in them.
        if (notif.id, notif.type) != (run.claim.event_id, run.claim.type):
            raise ValueError("the notification is of another event than the one recorded")
        run.entered = True
        result = callback(notif, client, *details)
        if inspect.isawaitable(result):
            getattr(result, "close", lambda: None)()
            raise TypeError(f"{module.file}: handle returned an awaitable, which never ran")

    return call


def _retry_after(error: BaseException) -> float:
    """Return for how many seconds Stripe's API asks to be left alone."""
    headers = getattr(error, "headers", None) or {}
    asked = str({str(name).lower(): value for name, value in headers.items()}.get("retry-after"))
    return float(asked) if asked.isascii() and asked.isdigit() else 0.0


def _storable(text: str) -> str:
    """Return ``text`` with no NUL and no lone surrogate."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd")
