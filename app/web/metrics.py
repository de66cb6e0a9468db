"""/metrics: the series for Prometheus."""

from __future__ import annotations

from flask import Blueprint, Response, request

from app.services import services
from app.web import answers, ports
from app.web.ops import auth

blueprint = Blueprint("metrics", __name__)


@blueprint.get("/metrics")
def show() -> Response:
    """Return all series of all processes of this gunicorn.

    A request that did not come on ``OPS_PORT`` needs one of the tokens of the operations page.
    """
    from app.metrics.exposition import CONTENT_TYPE  # noqa: PLC0415 - loads the library

    if not ports.is_on(services().settings.ops_port, request.environ):
        auth.require_viewer()
    try:
        text = services().meter.start().text()
    except TimeoutError as error:
        return answers.error(503, str(error), retry_after=5)
    response = Response(text, content_type=CONTENT_TYPE)
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["X-Robots-Tag"] = "noindex"
    return response
