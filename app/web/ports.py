"""Keeps the addresses for operators on a port of their own, ``OPS_PORT``.

No load balancer leads to that port. Both ports have the health checks.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from flask import Flask

from app.web import answers

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

#: The first segments of the paths for operators, and of the paths that both ports have.
FOR_OPERATORS = frozenset({"ops", "metrics"})
ON_BOTH = frozenset({"healthz", "readyz"})


def separate(app: Flask, ops_port: int) -> None:
    """Answer the paths for operators on ``ops_port`` alone, and deliveries only elsewhere.

    A path of the other port is answered like an unknown one.
    """
    inner: WSGIApplication = app.wsgi_app

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if _is_of_other_port(environ, ops_port):
            return answers.error(404, "not found")(environ, start_response)
        return inner(environ, start_response)

    app.wsgi_app = answer  # type: ignore[method-assign]  # Flask documents it for this


def is_on(port: int | None, environ: WSGIEnvironment) -> bool:
    """Return true if the request came on a socket with this ``port``, whatever its header says."""
    return bool(environ["SERVER_PORT"] == str(port))


def _is_of_other_port(environ: WSGIEnvironment, ops_port: int) -> bool:
    segment = environ["PATH_INFO"].removeprefix("/").partition("/")[0]
    return segment not in ON_BOTH and (segment in FOR_OPERATORS) != is_on(ops_port, environ)
