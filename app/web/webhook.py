"""The HTTP edge. It passes the raw body and the signature header on."""

from __future__ import annotations

import time

import structlog
from flask import Blueprint, Response, request
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge

from app.errors import DeliveryError, InboxUnavailable, Refused, TooLarge
from app.processing.receiver import Delivery
from app.services import services
from app.states import SUCCESSES, Outcome
from app.stripe_api.destinations import WEBHOOK_PATH
from app.web import answers

#: Outcomes that are logged as information, not as warnings.
EXPECTED = (Outcome.ACCEPTED, *SUCCESSES, Outcome.DUPLICATE)

#: The refusals of deliveries that one of the secrets signed, although it is not known which.
SIGNED_REFUSALS = frozenset({"signature_stale", "signature_from_future"})

#: Seconds after which Stripe is asked to deliver again while the inbox is unavailable.
INBOX_RETRY_SECONDS = 5

log = structlog.get_logger(__name__)

blueprint = Blueprint("webhook", __name__)


# A destination's URL often ends in a slash. No path redirects: Stripe follows no redirect.
@blueprint.post(
    WEBHOOK_PATH, strict_slashes=False, merge_slashes=False, provide_automatic_options=False
)
def receive() -> Response:
    """Take one delivery of an event (https://docs.stripe.com/webhooks)."""
    started = time.perf_counter()
    delivery = Delivery()
    parts = services()
    try:
        signature = request.headers.get("Stripe-Signature")
        body = _body(parts.settings.max_body_bytes)
        traceparent = request.headers.get("traceparent")
        outcome = parts.receiver.receive(body, signature, delivery, traceparent)
    except InboxUnavailable as error:
        _end(delivery, started, error.outcome, status=503, reason=error.reason)
        return answers.error(503, error.message, retry_after=INBOX_RETRY_SECONDS)
    except DeliveryError as error:
        if isinstance(error, Refused):
            parts.receiver.count(error, delivery)
            parts.meter.rejection(error.reason)
        is_logged = _is_signed(error, delivery) or parts.refusals.allows(error.reason)
        fields = {"status": error.status, "reason": error.reason}
        _end(delivery, started, error.outcome, is_logged=is_logged, **fields)
        return answers.error(error.status, error.message, retry_after=error.retry_after)
    except Exception:
        _end(delivery, started, Outcome.FAILED, status=500, reason="internal_error")
        raise
    _end(delivery, started, outcome, status=200)
    return answers.answer(200, {"success": True, "outcome": outcome})


def _body(limit: int) -> bytes:
    # The bridge enforces the same limit. `flask run` and the tests have no bridge.
    # Werkzeug truncates silently at its limit. One extra byte shows that the body was longer.
    request.max_content_length = limit + 1
    try:
        body = request.get_data(cache=False)
    except RequestEntityTooLarge:
        raise _too_large() from None
    except ClientDisconnected:
        raise Refused("the body is not complete", reason="body_incomplete") from None
    if len(body) > limit:
        raise _too_large()
    return body


def _too_large() -> TooLarge:
    return TooLarge("the body is too large", reason="body_too_large")


def _is_signed(error: DeliveryError, delivery: Delivery) -> bool:
    """Return true for a delivery of Stripe. Only it has a log line without a limit in number."""
    return delivery.secret is not None or error.reason in SIGNED_REFUSALS


def _end(
    delivery: Delivery,
    started: float,
    outcome: Outcome,
    *,
    is_logged: bool = True,
    **fields: object,
) -> None:
    """Count this delivery, and write its one line unless it is limited."""
    seconds = time.perf_counter() - started
    services().meter.delivery(outcome, delivery.event_type, seconds, delivery.secret)
    if not is_logged:
        return
    known = {
        name: value for name in delivery.__slots__ if (value := getattr(delivery, name)) is not None
    }
    write = log.info if outcome in EXPECTED else log.warning
    # A line of plain values is rendered at once, and an enum is none.
    plain = {"outcome": outcome.value, **fields, "duration_ms": round(seconds * 1000, 2)}
    write("delivery", **plain, **known)
