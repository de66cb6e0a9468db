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
    """Return 200 if the inbox can be written, else 503 with the reason.

    In queue mode it shows a pause of the workers, and the age of the oldest due event: autoscalers
    read that.
    """
    if services().stopping.is_set():
        return _not_ready("the service is shutting down")
    try:
        services().inbox.check()
        queue = _queue() if services().settings.is_queue else {}
    except InboxUnavailable as error:
        log.warning("not_ready", reason=error.reason)
        return _not_ready(error.message)
    return answer(200, {"status": "ready", **queue})


def _queue() -> dict[str, object]:
    """Return the state of the queue. While workers are paused, deliveries are still recorded."""
    administration = services().inbox.administration
    waited = round(administration.oldest_due_seconds(), 3)
    paused = {} if administration.paused() is None else {"paused": True}
    return {**paused, "oldest_due_seconds": waited}


def _not_ready(reason: str) -> Response:
    return answer(503, {"status": "unavailable", "reason": reason}, retry_after=5)
