"""Runs one claimed event through the SDK's handler, and settles what became of it.

Deliveries, retries and reconciliation all come through ``Runner.run``: there is one way to run
an event, and one SDK handler in a process, shared by all threads.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from typing import Any

import stripe
import structlog

from app.errors import CallbackFailed, Deferred, InboxUnavailable
from app.inbox import Claim, Failure, Inbox
from app.processing.leases import Leases
from app.processing.registry import Callback, Module, Registry
from app.processing.results import Judge, Result
from app.processing.retry_policy import RetryPolicy
from app.runtime import forks
from app.states import Outcome
from app.stripe_api import fetch_cache

log = structlog.get_logger(__name__)


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
        retry_policy: RetryPolicy | None,
        redact: Callable[[str], str],
    ) -> None:
        """Take the parts, and build the SDK's handler from the ``registry``.

        With a ``retry_policy`` a failed event is retried, and dead after the last attempt. Without
        one Stripe decides when it delivers the event again. ``redact`` takes the secrets out of
        what an exception says.
        """
        self._inbox = inbox
        self._leases = leases
        self._judge = Judge(retry_policy, redact)
        self._handler = registry.register(client, wrap=_wrap)

    def run(self, claim: Claim) -> Outcome:
        """Run the callback for ``claim`` and return the outcome once it is recorded.

        Returns ``handled``, ``gave_up``, ``unreadable`` or, after the last attempt,
        ``exhausted``. Raises ``CallbackFailed`` when the callback raised (the event is pending
        again), ``Deferred`` when another attempt has taken the event, ``InboxUnavailable`` when the
        outcome could not be recorded yet.
        """
        return copy_context().run(self._run, claim)

    def _run(self, claim: Claim) -> Outcome:
        structlog.contextvars.bind_contextvars(**_names(claim))
        with self._leases.held(claim):
            result = self._call(claim)
            self._settle(claim, lambda: self._record(claim, result))
        if result.outcome is Outcome.FAILED:
            raise CallbackFailed("the callback failed; the event will be retried", reason="raised")
        return result.outcome

    def _call(self, claim: Claim) -> Result:
        """Call the SDK's handler and return the result."""
        run = _Run(claim)
        try:
            # Log fields that the callback binds must not reach our lines or the next run.
            copy_context().run(self._handle, run)
        except BaseException as error:
            # Ctrl-C reaches the main thread, which runs callbacks in a command only. Elsewhere it
            # is the callback that raises it, and a failure like any other.
            if isinstance(error, KeyboardInterrupt) and _is_main_thread():
                self._inbox.claims.fail(claim, Failure("interrupted"))
                raise
            return self._judge.judge(claim, error, entered=run.entered)
        return Result(Outcome.HANDLED)

    def _handle(self, run: _Run) -> None:
        _current.set(run)
        fetch_cache.begin()
        with forks.ending_in_the_block():
            self._handler.handle(run.claim.body)

    def _record(self, claim: Claim, result: Result) -> bool:
        """Record the result, or as much of it as the inbox can store.

        Returns False when another attempt took the event. Raises ``InboxUnavailable`` in an outage.
        """
        *tries, last = result, *result.fallbacks()
        for each in tries:
            try:
                return self._record_exactly(claim, each)
            except InboxUnavailable:
                raise
            except Exception:
                log.exception("result_not_recorded", attempt=claim.attempt, outcome=each.outcome)
        return self._record_exactly(claim, last)

    def _record_exactly(self, claim: Claim, result: Result) -> bool:
        if result.failure is None:
            return self._inbox.claims.finish(claim)
        if result.is_dead:
            return self._inbox.claims.mark_dead(claim, result.outcome, result.failure)
        return self._inbox.claims.fail(claim, result.failure)

    def _settle(self, claim: Claim, settle: Callable[[], bool]) -> None:
        self._leases.watchdog.check()
        try:
            settled = settle()
        except Exception:  # an unforeseen one too: the result must not be lost
            self._leases.settle_later(claim, settle)
            raise
        if not settled:
            log.warning("claim_lost", attempt=claim.attempt)
            raise Deferred(
                "the event was taken over by another attempt", reason="claim_lost", retry_after=1
            )


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


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
