"""Answers of the stand-in for Stripe's API, in the form that the SDK reads."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from werkzeug import Request, Response

if TYPE_CHECKING:
    from collections.abc import Mapping

CODES = {404: "resource_missing", 429: "rate_limit"}
V2_CODES = {404: "not_found", 429: "rate_limit"}


class RefusedRequestError(Exception):
    """Stripe's API would refuse the request. The text is the message of the answer."""

    def __init__(
        self, message: str, *, status: int = 400, code: str = "invalid_parameters"
    ) -> None:
        """Take the ``message``, the HTTP status and Stripe's code of the error."""
        super().__init__(message)
        error = {"type": "invalid_request_error", "code": code, "message": message}
        self.answer = json_answer({"error": error}, status)


def json_answer(
    body: Mapping[str, Any] | bytes, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return an answer with a JSON ``body``. Bytes are sent unchanged."""
    encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Response(encoded, status, dict(headers or {}), content_type="application/json")


def error_answer(
    request: Request, status: int, headers: Mapping[str, str] | None = None
) -> Response:
    """Return an error in the form that the SDK expects of the API version in the path.

    (https://docs.stripe.com/api/errors)
    """
    version2 = request.path.startswith("/v2/")
    error = {
        "type": "api_error" if status >= 500 else "invalid_request_error",  # noqa: PLR2004 - HTTP's own numbers
        "code": (V2_CODES if version2 else CODES).get(status),
        "message": f"The stand-in answers {status} to {request.method} {request.path}",
    }
    if version2 and status == 429:  # noqa: PLR2004 - HTTP's own numbers
        error["type"] = "rate_limit"
    body = {"error": {name: value for name, value in error.items() if value}}
    return json_answer(body, status, headers)
