"""Authenticates a delivery, reads it, records it, and has it run.

A body is parsed, stored and logged only after its signature was verified.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass

import structlog

from app.errors import Deferred, InboxUnavailable, Refused, Stopping
from app.inbox import NewEvent
from app.inbox.deliveries import Deliveries
from app.processing.runner import Runner
from app.processing.worker import Worker
from app.settings import Settings
from app.states import Outcome, State
from app.stripe_api import signature as signatures
from app.stripe_api.event_body import read_event
from app.tracing.spans import Span, Tracing

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Delivery:
    """The fields of one delivery's log line. A field is set as soon as it is known.

    ``secret`` is the position of the secret that signed the delivery. ``rejections`` counts the
    rejections for the same reason.
    """

    event_id: str | None = None
    event_type: str | None = None
    livemode: bool | None = None
    context: str | None = None
    secret: int | None = None
    attempt: int | None = None
    rejections: int | None = None
    trace_id: str | None = None
    span_id: str | None = None


class Receiver:
    """Receives all deliveries of this process."""

    def __init__(  # noqa: PLR0913 - the services, each named
        self,
        settings: Settings,
        deliveries: Deliveries,
        runner: Runner,
        worker: Worker,
        *,
        stopping: threading.Event,
        tracing: Tracing,
    ) -> None:
        """Take the services. Once ``stopping`` is set every delivery is rejected."""
        self._settings = settings
        self._deliveries = deliveries
        self._runner = runner
        self._worker = worker
        self._stopping = stopping
        self._tracing = tracing
        self._rejections: Counter[str] = Counter()

    def receive(
        self, body: bytes, signature: str | None, delivery: Delivery, traceparent: str | None = None
    ) -> Outcome:
        """Receive one delivery and return its outcome. Stripe is to be answered with 2xx.

        ``body`` is the raw body, ``signature`` the ``Stripe-Signature`` header, and ``traceparent``
        the header of that name. Sets the fields of ``delivery``. Raises ``DeliveryError`` or
        ``InboxUnavailable``.
        """
        if self._stopping.is_set():
            raise Stopping("the service is shutting down", reason="stopping", retry_after=1)
        secrets = self._settings.stripe_webhook_secrets
        delivery.secret = signatures.verify(body, signature, secrets)
        # Not before: anyone can send a request, and would fill the storage of the traces.
        with self._tracing.delivery(traceparent) as span:
            for name, value in span.log_fields().items():
                setattr(delivery, name, value)
            outcome = self._take(body, delivery, span)
            span.ended(outcome)
            return outcome

    def _take(self, body: bytes, delivery: Delivery, span: Span) -> Outcome:
        event = read_event(body, span.traceparent)
        delivery.event_id, delivery.event_type = event.id, event.type
        delivery.livemode, delivery.context = event.livemode, event.context
        span.is_of(event.id, event.type, livemode=event.livemode)
        if event.livemode != self._settings.livemode:
            self._deliveries.record_skipped(event, Outcome.WRONG_MODE)
            return Outcome.WRONG_MODE
        if self._settings.is_queue:
            return self._enqueue(event, delivery)
        return self._run(event, delivery)

    def count(self, refused: Refused, delivery: Delivery) -> None:
        """Count a rejection by its reason, and set ``delivery.rejections`` to the count."""
        self._rejections[refused.reason] += 1
        delivery.rejections = self._rejections[refused.reason]

    def _run(self, event: NewEvent, delivery: Delivery) -> Outcome:
        recorded = self._deliveries.record_and_claim(event)
        delivery.attempt = recorded.attempt
        if recorded.claim is not None:
            return self._runner.run(recorded.claim)
        if recorded.state == State.RUNNING:
            raise Deferred(
                "the event is running; deliver it again",
                reason="running",
                retry_after=math.ceil(self._settings.lease_seconds),
            )
        if recorded.outcome == Outcome.CRASHED:
            # This delivery may have marked the event dead. It gets a 200, so it is the last one.
            log.error("event_crashed", event_id=event.id, event_type=event.type)
        return Outcome.DUPLICATE

    def _enqueue(self, event: NewEvent, delivery: Delivery) -> Outcome:
        recorded = self._deliveries.enqueue(event)
        delivery.attempt = recorded.attempt
        if recorded.state in {State.DONE, State.DEAD}:
            return Outcome.DUPLICATE
        self._worker.wake()
        with suppress(InboxUnavailable):  # the event is recorded, and workers poll
            self._deliveries.notify()
        return Outcome.ACCEPTED
