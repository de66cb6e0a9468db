"""/healthz: the process answers. /readyz: deliveries can be taken, so send them here."""

from __future__ import annotations

import structlog
from flask import Blueprint, Response, jsonify

from app.errors import InboxUnavailable
from app.services import services

log = structlog.get_logger(__name__)

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
def healthz() -> Response:
    """Answer 200 as long as the process can answer at all. Nothing else is asked."""
    return jsonify(status="ok")


@blueprint.get("/readyz")
def readyz() -> Response:
    """Answer 200 when the inbox can be written, and 503 with the reason otherwise."""
    if services().stopping.is_set():
        return _not_ready("the service is shutting down")
    try:
        services().inbox.check()
        paused = (
            services().settings.is_queue and services().inbox.administration.paused() is not None
        )
    except InboxUnavailable as error:
        log.warning("not_ready", reason=error.reason)
        return _not_ready(error.message)
    # Paused workers are no reason to send deliveries elsewhere: they are still recorded.
    return jsonify(status="ready", paused=True) if paused else jsonify(status="ready")


def _not_ready(reason: str) -> Response:
    response = jsonify(status="unavailable", reason=reason)
    response.status_code = 503
    response.headers["Retry-After"] = "5"
    return response
