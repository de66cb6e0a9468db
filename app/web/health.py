"""/healthz: the process responds. /readyz: the process can accept deliveries."""

from __future__ import annotations

import structlog
from flask import Blueprint, Response

from app.errors import InboxUnavailable
from app.services import services
from app.web.answers import answer

log = structlog.get_logger(__name__)

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
def healthz() -> Response:
    """Return 200. It checks nothing but that the process responds."""
    return answer(200, {"status": "ok"})


@blueprint.get("/readyz")
def readyz() -> Response:
    """Return 200 if the inbox can be written, else 503 with the reason."""
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
    # While workers are paused, deliveries are still recorded.
    return answer(200, {"status": "ready", "paused": True} if paused else {"status": "ready"})


def _not_ready(reason: str) -> Response:
    return answer(503, {"status": "unavailable", "reason": reason}, retry_after=5)
