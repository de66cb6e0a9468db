"""Refusals and failures as pages: what is wrong, and what to do."""

from __future__ import annotations

import structlog
from flask import Blueprint, Response, make_response, render_template, request
from werkzeug.exceptions import (
    BadGateway,
    HTTPException,
    InternalServerError,
    NotFound,
    ServiceUnavailable,
)

from app.errors import InboxUnavailable
from app.stripe_api.errors import StripeFailed
from app.web.ops import auth

log = structlog.get_logger(__name__)

blueprint = Blueprint("errors", __name__)

#: Sentences for the statuses whose exceptions have no text of ours.
SENTENCES = {
    404: "There is no such page.",
    405: "This address takes no request of this kind.",
    413: "The form is too large.",
    500: "The page failed. The service's log has the error as page_failed.",
}


@blueprint.post("", strict_slashes=False)
@blueprint.route("/<path:_rest>", methods=["GET", "POST"])
def unknown(_rest: str = "") -> Response:
    """Answer an address that no page has."""
    raise NotFound


def answer(error: Exception) -> Response:
    """Return the page for a refusal or a failure, with its status."""
    if not isinstance(error, HTTPException):
        log.error("page_failed", path=request.path, exc_info=error)
        error = InternalServerError()
    sentence = SENTENCES.get(error.code or 500)
    if error.description != type(error).description:
        sentence = error.description
    page = "refused.html" if auth.VIEWER not in request.environ else "error.html"
    made = make_response(
        render_template(f"ops/{page}", status=error.code, name=error.name, sentence=sentence),
        error.code,
    )
    skip = {"content-type", "content-length"}
    made.headers.extend(each for each in error.get_headers() if each[0].lower() not in skip)
    return made


def answer_without_inbox(error: InboxUnavailable) -> Response:
    """Return the page for an inbox that cannot be reached. Raises nothing."""
    log.warning("page_unavailable", reason=error.reason)
    made = answer(ServiceUnavailable(f"{error.message}. Deliveries are answered 503."))
    made.headers["Retry-After"] = "5"
    return made


def answer_without_stripe(error: StripeFailed) -> Response:
    """Return the page for a request that Stripe's API refused or did not answer."""
    return answer(BadGateway(f"{error}."))
