"""The answers of the service: JSON, with a status and headers."""

from __future__ import annotations

import json

from flask import Response


def answer(status: int, values: dict[str, object], *, retry_after: int | None = None) -> Response:
    """Return ``values`` as JSON. ``retry_after`` is the header of that name, in seconds."""
    response = Response(json.dumps(values) + "\n", status, mimetype="application/json")
    if retry_after is not None:
        response.headers["Retry-After"] = str(retry_after)
    return response


def error(status: int, message: str, *, retry_after: int | None = None) -> Response:
    """Return an answer with this error ``message``."""
    return answer(status, {"error": message}, retry_after=retry_after)
