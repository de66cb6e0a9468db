"""Runs one claimed event through its callback, and records the result.

Deliveries, retries and reconciliation all call ``Runner.run``: there is one way to run an event,
and one router per process, shared by all threads.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from typing import Any

import stripe
import structlog

from app import idempotency
from app.errors import CallbackFailed, InboxUnavailable
from app.idempotency import EffectRecords
from app.inbox import Claim, Failure
from app.inbox.claims import Claims
from app.inbox.pairs import Hold, Pairs
from app.processing import pairs as pairing
from app.processing.deferred_results import DeferredResults
from app.processing.leases import Leases, claim_lost
from app.processing.pairs import PairGate
from app.processing.registry import FALLBACKS, Callback, HandlerModule, Registry
from app.processing.results import Classifier, Result
from app.runtime import forks
from app.runtime.watchdog import Watchdog
from app.states import Outcome
from app.stripe_api import fetch_cache
from app.stripe_api.catalog import Kind
from app.tracing.spans import Span, Tracing

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Run:
    """One call of the router.

    ``entered`` is set when it calls the callback, ``success`` when the callback has returned or
    need not run. ``waits``: the twin of the event runs, so this one has to be tried again.
    ``outage``: the inbox could not decide whether the callback may run. ``is_shadow``: the event is
    done even if its callback fails.
    """

    claim: Claim
    entered: bool = False
    success: Outcome | None = None
    waits: bool = False
    outage: InboxUnavailable | None = None
    is_shadow: bool = False


#: The run of this context. The SDK does not pass it to the callbacks.
_current: ContextVar[_Run] = ContextVar("current_run")


class Runner:
    """Runs claims, one at a time in each calling thread."""

    def __init__(  # noqa: PLR0913 - the services, each named
        self,
        registry: Registry,
        client: stripe.StripeClient,
        claims: Claims,
        effects: EffectRecords,
        pairs: Pairs,
        *,
        leases: Leases,
        deferred: DeferredResults,
        watchdog: Watchdog,
        classifier: Classifier,
        tracing: Tracing,
        on_attempt: Callable[[str, Outcome, float], object],
    ) -> None:
        """Take the services, and register the modules of the ``registry``.

        ``on_attempt`` is called when a callback has ended, with the event type, the outcome and the
        seconds that it took.
        """
        self._on_attempt = on_attempt
        self._claims = claims
        self._effects = effects
        self._leases = leases
        self._deferred = deferred
        self._watchdog = watchdog
        self._tracing = tracing
        self._classifier = classifier
        self._router = registry.register(client, wrap=self._wrap)
        self._gate = PairGate(pairs, registry.paired_types)

    def run(self, claim: Claim) -> Outcome:
        """Run the callback for ``claim``. Returns the outcome once the inbox has recorded it.

        The outcome is ``handled``, ``fallback``, ``twin``, ``shadow``, ``gave_up``,
        ``unreadable``, ``exhausted`` or ``unrecorded``.
        Raises ``CallbackFailed`` when the callback raised and the event is pending again.
        Raises ``Deferred`` when another attempt took the event over or its twin runs, and
        ``InboxUnavailable`` when the result will be recorded later, or the event of a pair has not
        run.
        """
        return copy_context().run(self._run, claim)

    def _run(self, claim: Claim) -> Outcome:
        with self._tracing.attempt(claim) as span, self._leases.renewing(claim):
            structlog.contextvars.bind_contextvars(**claim.log_fields(), **span.log_fields())
            started = time.perf_counter()
            run = _Run(claim)
            result = self._call(run, span)
            if run.waits:
                self._give_back(claim, pairing.TWIN_RUNS)
                raise pairing.twin_runs(claim)
            if run.outage:
                self._give_back(claim, pairing.UNDECIDED)
                raise run.outage
            self._on_attempt(claim.type, result.outcome, time.perf_counter() - started)
            self._record_or_defer(claim, lambda: self._record(claim, result))
            span.ended(result.outcome)
        if result.outcome is Outcome.FAILED:
            raise CallbackFailed("the callback failed; the event will be retried", reason="raised")
        return result.outcome

    def _give_back(self, claim: Claim, reason: str) -> None:
        """Give the claim back without a failure: the callback was not called."""
        delay = pairing.delay_of(claim)
        self._record_or_defer(claim, lambda: self._claims.release(claim, delay, reason))

    def _call(self, run: _Run, span: Span) -> Result:
        """Call the callback and return the result."""
        try:
            # In a context of its own: log fields that the callback binds must not reach later lines
            # or the next run.
            copy_context().run(self._handle, run)
        except BaseException as error:
            # Only a command runs callbacks in the main thread: there it is Ctrl-C, elsewhere the
            # callback's own.
            if isinstance(error, KeyboardInterrupt) and _is_main_thread():
                self._end_interrupted(run)
                raise
            if run.success is None and run.is_shadow:
                return Result(Outcome.SHADOW, self._classifier.note_shadow(error))
            if run.success is None:
                span.failed(error)
                return self._classifier.classify(run.claim, error, entered=run.entered)
            log.exception("error_after_callback")  # the callback has succeeded: never run it again
        return Result(run.success or Outcome.HANDLED)

    def _end_interrupted(self, run: _Run) -> None:
        """Record a success that came before the interrupt, or else make the event pending."""
        if run.success:
            success = Result(run.success)
            self._record_or_defer(run.claim, lambda: self._record(run.claim, success))
        else:
            self._claims.fail(run.claim, Failure("interrupted"))

    def _handle(self, run: _Run) -> None:
        _current.set(run)
        fetch_cache.begin()
        effects = idempotency.recording(run.claim.event_id, self._effects)
        with effects, forks.ending_in_the_block():
            self._router.route(run.claim.type, run.claim.body)

    def _wrap(self, module: HandlerModule) -> Callback:
        """Return the module's callback for the router.

        It notes that the callback or its hook was entered. An error before that comes from reading
        the body, an error after it from one of them: their types do not tell them apart.
        """
        success = Outcome.FALLBACK if module.event_type in FALLBACKS else Outcome.HANDLED
        success = Outcome.SHADOW if module.policy.shadow else success

        def call(event: Any, client: stripe.StripeClient, *details: Any) -> None:
            run = _current.get()
            # The SDK unwraps envelopes of other services, and reads the event inside.
            if (event.id, event.type) != (run.claim.event_id, run.claim.type):
                raise ValueError("the body is of another event than the one recorded")
            run.entered = True
            try:
                may_run = self._may_run(run, module, event)
            except InboxUnavailable as error:
                run.outage = error
                return
            if may_run:
                module.run(event, client, *details)
                run.success = success

        return call

    def _may_run(self, run: _Run, module: HandlerModule, event: Any) -> bool:
        """Return whether the callback is to run: the other event of a pair may have succeeded."""
        if module.policy.shadow:
            run.is_shadow = True
            idempotency.skip_effects()
            self._gate.note_shadow(run.claim, event)
            return True
        key = self._gate.key(run.claim, event)
        if key is None:
            return True
        idempotency.share_action(key)
        if module.policy.coalesce and not self._gate.is_pair(run.claim.type):
            return True  # its run serves the events that it superseded, too
        hold = self._gate.enter(run.claim, key, is_thin=module.kind is Kind.THIN)
        if hold is Hold.TWIN_SUCCEEDED:
            run.success = Outcome.TWIN
        run.waits = hold is Hold.TWIN_RUNS
        return hold is Hold.TAKEN

    def _record_or_defer(self, claim: Claim, record: Callable[[], bool]) -> None:
        """Record the result now, or defer it when that fails. Raises why it failed."""
        self._watchdog.check()
        try:
            recorded = record()
        except BaseException:  # an unexpected error and Ctrl-C too: the result must not be lost
            self._deferred.add(claim, record)
            raise
        if not recorded:
            log.warning("claim_lost")
            raise claim_lost()

    def _record(self, claim: Claim, result: Result) -> bool:
        """Record the result, or the part of it that the inbox can store.

        Returns False when another attempt took the event over. Raises ``InboxUnavailable``.
        """
        *tries, last = result, *result.fallbacks()
        for each in tries:
            try:
                return self._write_result(claim, each)
            except InboxUnavailable:
                raise
            except Exception:
                log.exception("result_not_recorded", **claim.log_fields(), outcome=each.outcome)
        return self._write_result(claim, last)

    def _write_result(self, claim: Claim, result: Result) -> bool:
        if result.failure is None:
            return self._claims.finish(claim, result.outcome)
        if result.outcome is Outcome.SHADOW:
            return self._claims.finish_with_failure(claim, result.outcome, result.failure)
        if result.is_dead:
            return self._claims.mark_dead(claim, result.outcome, result.failure)
        return self._claims.fail(claim, result.failure)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
