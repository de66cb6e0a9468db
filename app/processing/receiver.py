"""Authenticates a delivery, reads it, records it, and has it run. It knows no HTTP.

Nothing of a body is parsed, stored or logged before its signature holds.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import stripe
import structlog
from typing_extensions import TypeIs

from app.errors import Deferred, InboxUnavailable, Refused, Stopping
from app.inbox import Inbox, NewEvent
from app.processing.runner import Runner
from app.processing.worker import Worker
from app.settings import Settings
from app.states import Outcome, State

log = structlog.get_logger(__name__)

#: Seconds that a signature may be old, or ahead of this machine's clock. The SDK has no bound
#: for the second (https://docs.stripe.com/webhooks#replay-attacks).
TOLERANCE = 300

#: Ids and types as Stripe makes them, and short enough for an index. What does not look like
#: this was not made by Stripe; some of it, such as a NUL, PostgreSQL could not even store.
WORD = re.compile(r"[\x21-\x7e]{1,255}")

SNAPSHOT = (
    "this is a snapshot event, and this service takes event notifications: create an event"
    " destination with the payload style 'Thin' at https://dashboard.stripe.com/webhooks"
    " (the style of an existing destination cannot be changed) and disable this one"
)


@dataclass(slots=True)
class Delivery:
    """What is known of one POST, as far as it came: the fields of its line in the log."""

    event_id: str | None = None
    event_type: str | None = None
    livemode: bool | None = None
    context: str | None = None
    secret: int | None = None
    attempt: int | None = None
    rejections: int | None = None


class Receiver:
    """The one instance that all deliveries to this process go through."""

    def __init__(
        self,
        settings: Settings,
        inbox: Inbox,
        runner: Runner,
        worker: Worker,
        stopping: threading.Event,
    ) -> None:
        """Take the parts, and the event that is set when the process begins to shut down."""
        self._settings = settings
        self._inbox = inbox
        self._runner = runner
        self._worker = worker
        self._stopping = stopping
        self._rejections: Counter[str] = Counter()

    def receive(self, body: bytes, signature: str | None, delivery: Delivery) -> Outcome:
        """Take one delivery and return its outcome, for which Stripe is answered with 2xx.

        ``body`` is the raw body and ``signature`` the ``Stripe-Signature`` header. ``delivery``
        is filled in on the way. Raises ``Refused``, ``Deferred``, ``CallbackFailed`` or
        ``InboxUnavailable``.
        """
        if self._stopping.is_set():
            raise Stopping("the service is shutting down", reason="stopping", retry_after=1)
        delivery.secret = self._authenticate(body, signature)
        event = read_notification(body)
        delivery.event_id, delivery.event_type = event.id, event.type
        delivery.livemode, delivery.context = event.livemode, event.context
        return self._take(event, delivery)

    def count(self, refused: Refused, delivery: Delivery) -> None:
        """Count a refusal by its reason, since this process started, for its line in the log."""
        self._rejections[refused.reason] += 1
        delivery.rejections = self._rejections[refused.reason]

    def _authenticate(self, body: bytes, signature: str | None) -> int:
        """Return the position, from 1, of the secret that the signature was made with."""
        if not signature:
            raise _forged("signature_missing", "the Stripe-Signature header is missing")
        for position, secret in enumerate(self._settings.stripe_webhook_secrets, start=1):
            if _matches(body, signature, secret):
                _refuse_future(signature)
                return position
        raise _forged("signature_mismatch", "the signature does not match the body")

    def _take(self, event: NewEvent, delivery: Delivery) -> Outcome:
        if event.livemode != self._settings.livemode:
            self._inbox.deliveries.record_skipped(event, Outcome.WRONG_MODE)
            return Outcome.WRONG_MODE
        if self._settings.is_queue:
            return self._record(event, delivery)
        accepted = self._inbox.deliveries.record_and_claim(event)
        delivery.attempt = accepted.attempt
        if accepted.claim is not None:
            return self._runner.run(accepted.claim)
        if accepted.state == State.RUNNING:
            raise self._running()
        if accepted.outcome == Outcome.CRASHED:
            # Maybe given up on right now, and a delivery that is answered 200 is the last one.
            log.error("event_crashed", event_id=event.id, event_type=event.type)
        return Outcome.DUPLICATE

    def _record(self, event: NewEvent, delivery: Delivery) -> Outcome:
        accepted = self._inbox.deliveries.enqueue(event)
        delivery.attempt = accepted.attempt
        if accepted.state in {State.DONE, State.DEAD}:
            return Outcome.DUPLICATE
        self._worker.wake()
        with contextlib.suppress(
            InboxUnavailable
        ):  # it is recorded, and workers look by themselves
            self._inbox.deliveries.notify()
        return Outcome.ACCEPTED

    def _running(self) -> Deferred:
        return Deferred(
            "the event is running; deliver it again",
            reason="running",
            retry_after=math.ceil(self._settings.lease_seconds),
        )


def _matches(body: bytes, signature: str, secret: str) -> bool:
    """Whether the signature was made with ``secret``. Raises ``Refused`` for what never can."""
    try:
        stripe.WebhookSignature.verify_header(body, signature, secret, TOLERANCE)
    except stripe.SignatureVerificationError as error:
        message = str(error)
        if message.startswith("No signatures found matching"):
            return False
        if message.startswith("Timestamp outside"):  # which is only asked when it matched
            raise _forged("signature_stale", "the signature is too old") from None
        raise _forged("signature_malformed", "the Stripe-Signature header is malformed") from None
    except UnicodeDecodeError:
        raise _forged("body_not_utf8", "the body is not UTF-8") from None
    except TypeError:  # a character outside ASCII, which hmac.compare_digest() refuses
        raise _forged("signature_malformed", "the Stripe-Signature header is malformed") from None
    return True


def _refuse_future(signature: str) -> None:
    """Refuse a timestamp that is further ahead than clocks go wrong. The SDK accepted it."""
    pairs = [item.split("=", 2) for item in signature.split(",")]
    timestamp = int(next(pair[1] for pair in pairs if pair[0] == "t"))
    if timestamp > time.time() + TOLERANCE:
        raise _forged("signature_from_future", "the signature is from the future")


def _forged(reason: str, message: str) -> Refused:
    return Refused(message, reason=reason)


def read_notification(body: bytes) -> NewEvent:
    """Return what the inbox keeps of an authentic body. Raises ``Refused``."""
    try:
        values = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        raise Refused("the body is not JSON that can be read", reason="not_json") from None
    kind = values.get("object") if isinstance(values, dict) else None
    if kind == "event":
        raise Refused(SNAPSHOT, reason="snapshot_event")
    if kind != "v2.core.event":
        raise Refused(
            "the body is not an event notification (object: v2.core.event)",
            reason="not_a_notification",
        )
    return _to_event(values, body)


def _to_event(values: dict[str, Any], body: bytes) -> NewEvent:
    event_id, event_type = values.get("id"), values.get("type")
    livemode, context = values.get("livemode", False), values.get("context")
    if not (is_word(event_id) and is_word(event_type) and isinstance(livemode, bool)):
        raise Refused(
            "the event notification has no usable id, type or livemode",
            reason="not_a_notification",
        )
    known_context = context if is_word(context) else None
    subject = _subject(known_context, event_type, values.get("related_object"))
    return NewEvent(event_id, event_type, livemode, known_context, body, subject)


def _subject(context: str | None, event_type: str, related: object) -> str:
    """Name what may not run at the same time: the related object, or the type without one.

    A singleton has no id; its address tells it from others.
    """
    named = related if isinstance(related, dict) else {}
    kind, which = named.get("type"), named.get("id", named.get("url"))
    words = (kind, which) if is_word(kind) and is_word(which) else (event_type,)
    return " ".join([context or "-", *words])


def is_word(value: object) -> TypeIs[str]:
    """Whether ``value`` can stand in the inbox as an id, a type or a context."""
    return isinstance(value, str) and WORD.fullmatch(value) is not None
