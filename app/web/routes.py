"""The routes of the service, as its settings open them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from flask import Flask, Response
from werkzeug.exceptions import HTTPException

from app.settings import Settings
from app.web import answers, health, metrics, ops, ports, webhook

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment


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
    _refuse_two_slashes(app)
    app.register_error_handler(HTTPException, _answer_in_json)


def _refuse_two_slashes(app: Flask) -> None:
    """Answer 404 to a path that begins with two slashes.

    Werkzeug's routing drops all slashes at the beginning, and would find the route of ``/ops`` for
    ``//ops``. The checks of the path before the routing would not: the port, and the threads.
    """
    inner: WSGIApplication = app.wsgi_app

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"].startswith("//"):
            return answers.error(404, "not found")(environ, start_response)
        return inner(environ, start_response)

    app.wsgi_app = answer  # type: ignore[method-assign]  # Flask documents it for this


def _answer_in_json(error: HTTPException) -> Response:
    """Answer a request that Flask refuses, such as one with a wrong method, in JSON."""
    response = answers.error(error.code or 500, error.name.lower())
    response.headers.extend(
        (name, value) for name, value in error.get_headers() if name.lower() != "content-type"
    )
    return response
