"""/metrics: the series for Prometheus."""

from __future__ import annotations

from flask import Blueprint, Response

from app.services import services
from app.web import answers
from app.web.ops import auth

blueprint = Blueprint("metrics", __name__)


@blueprint.get("/metrics")
def show() -> Response:
    """Return all series of all processes of this gunicorn.

    On the port of the deliveries, the request needs one of the tokens of the operations page.
    ``OPS_PORT`` needs none: ``app.web.ports`` answers only there.
    """
    from app.metrics.exposition import CONTENT_TYPE  # noqa: PLC0415 - loads the library

    if services().settings.ops_port is None:
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
