"""Requests for event destinations: what the stand-in accepts, and what its answers show."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

import stripe

from devkit.api_answers import RefusedRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from werkzeug import Request

#: Fields that an answer contains only if the request includes them.
URL, SIGNING_SECRET = "webhook_endpoint.url", "webhook_endpoint.signing_secret"


def read_body(request: Request, allowed: set[str]) -> dict[str, Any]:
    """Return the JSON object of a POST. Refuses parameters that are not ``allowed``."""
    try:
        given = json.loads(request.get_data())
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise RefusedRequestError("The body is no JSON object")
    unknown = sorted(given.keys() - allowed)
    if unknown:
        raise RefusedRequestError(f"Received unknown parameter: {unknown[0]}")
    return given


def included(request: Request) -> list[str]:
    """Return the fields that a GET includes. Only the URL is allowed there."""
    include = [value for name, value in request.args.items() if name.startswith("include[")]
    check_include(include, {URL})
    return include


def check_include(include: list[str], allowed: set[str]) -> None:
    """Refuse a field that this call cannot include."""
    unknown = [name for name in include if name not in allowed]
    if unknown:
        raise RefusedRequestError(f"include cannot hold {unknown[0]}")


def check_url(url: str | None, *, live: bool) -> None:
    """Refuse a text that is no URL, and plain http in live mode."""
    parts = urlsplit(url or "")
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise RefusedRequestError("webhook_endpoint.url must be a URL")
    if live and parts.scheme != "https":
        raise RefusedRequestError("webhook_endpoint.url must begin with https in live mode")


def check_types(types: list[str], payload: str) -> None:
    """Refuse an empty list, and types of the other payload style."""
    if not types:
        raise RefusedRequestError("enabled_events must not be empty")
    is_thin = payload == "thin"
    wrong = [
        name
        for name in types
        if (re.fullmatch(r"v[12]\.[a-z0-9_.\[\]]+", name) is not None) is not is_thin
    ]
    if wrong:
        raise RefusedRequestError(
            f"enabled_events of a {payload} destination cannot hold {wrong[0]}"
        )


def read_api_version(given: Mapping[str, Any]) -> str | None:
    """Return the API version of a new destination. Refuses one for thin events.

    The default is that of the account: the stand-in has that of the SDK.
    """
    version = given.get("snapshot_api_version")
    if given["event_payload"] == "snapshot":
        return version or stripe.api_version
    if version:
        raise RefusedRequestError("snapshot_api_version is for snapshot destinations only")
    return None


def visible(
    destination: Mapping[str, Any], include: list[str], signing: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return a destination for an answer. Redacted fields are null unless included."""
    endpoint = {
        "url": destination["webhook_endpoint"]["url"] if URL in include else None,
        "signing_secret": (signing or {})[destination["id"]] if SIGNING_SECRET in include else None,
    }
    return {**destination, "webhook_endpoint": endpoint}


def page_url(request: Request, cursor: str) -> str:
    """Return the address of the page after the destination ``cursor``."""
    rest = [(name, value) for name, value in request.args.items() if name != "page"]
    return f"{request.path}?{urlencode([*rest, ('page', cursor)])}"
