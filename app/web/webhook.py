"""The HTTP endpoint of deliveries: body and signature in, status out. It knows no Stripe."""

from __future__ import annotations

import json
import time

import structlog
from flask import Blueprint, Response, request
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge

from app.errors import DeliveryError, Refused, TooLarge
from app.processing.receiver import Delivery
from app.services import services

#: Outcomes that are logged at level info. All others are warnings.
EXPECTED = ("accepted", "handled", "duplicate")

log = structlog.get_logger(__name__)

blueprint = Blueprint("webhook", __name__)


@blueprint.post("/webhook", provide_automatic_options=False)
def receive() -> Response:
    """Take one delivery of an event notification (https://docs.stripe.com/webhooks)."""
    started = time.perf_counter()
    delivery = Delivery()
    parts = services()
    try:
        signature = request.headers.get("Stripe-Signature")
        body = _body(parts.settings.max_body_bytes)
        outcome = parts.receiver.receive(body, signature, delivery)
    except DeliveryError as error:
        if isinstance(error, Refused):
            parts.receiver.count(error, delivery)
        _log(delivery, started, outcome=error.outcome, status=error.status, reason=error.reason)
        return _error(error)
    except Exception:
        _log(delivery, started, outcome="failed", status=500, reason="internal_error")
        raise
    _log(delivery, started, outcome=outcome, status=200)
    return _json(200, {"success": True, "outcome": outcome})


def _body(limit: int) -> bytes:
    # Werkzeug cuts a body without a Content-Length at its limit, without an error. One byte more
    # distinguishes a longer body from one of exactly the limit.
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


def _error(error: DeliveryError) -> Response:
    response = _json(error.status, {"error": error.message})
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(error.retry_after)
    return response


def _json(status: int, values: dict[str, object]) -> Response:
    return Response(json.dumps(values) + "\n", status, mimetype="application/json")


def _log(delivery: Delivery, started: float, outcome: str, **fields: object) -> None:
    """Write the log line of this delivery."""
    known = {
        name: value for name in delivery.__slots__ if (value := getattr(delivery, name)) is not None
    }
    duration = round((time.perf_counter() - started) * 1000, 2)
    write = log.info if outcome in EXPECTED else log.warning
    write("delivery", outcome=outcome, **fields, duration_ms=duration, **known)
