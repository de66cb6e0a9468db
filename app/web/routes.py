"""The routes of the service, as its settings open them."""

from __future__ import annotations

from flask import Flask, Response
from werkzeug.exceptions import HTTPException

from app.settings import Settings
from app.web import answers, health, metrics, ops, ports, webhook


def add(app: Flask, settings: Settings) -> None:
    """Add the routes to ``app``. A page that is not open is an unknown path like any other."""
    # No path redirects: the redirect would name the host of the service, not that of its proxy.
    app.url_map.merge_slashes = False
    app.register_blueprint(webhook.blueprint)
    app.register_blueprint(health.blueprint)
    if settings.ops_token:
        ops.register(app)
    if settings.serves_metrics:
        app.register_blueprint(metrics.blueprint)
    if settings.ops_port is not None:
        ports.separate(app, settings.ops_port)
    app.register_error_handler(HTTPException, _answer_in_json)


def _answer_in_json(error: HTTPException) -> Response:
    """Answer a request that Flask refuses, such as one with a wrong method, in JSON."""
    response = answers.error(error.code or 500, error.name.lower())
    response.headers.extend(
        (name, value) for name, value in error.get_headers() if name.lower() != "content-type"
    )
    return response
