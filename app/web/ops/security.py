"""Checks against requests that other sites make in a person's browser, and the headers of pages.

A browser sends the credentials of HTTP Basic with each request to this site, also with those that
another site starts. So a POST must come from a page of this site, and return its CSRF token.
"""

from __future__ import annotations

import hmac
from urllib.parse import urlsplit

from flask import Response, request
from werkzeug.exceptions import Forbidden

from app.web import wsgi
from app.web.bridge import FORM_BYTES
from app.web.ops.auth import SAFE_METHODS, viewer

#: The name of the field of a form with the CSRF token.
CSRF_FIELD = "csrf_token"

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self';"
    " connect-src 'self'; img-src 'self'; form-action 'self'; frame-ancestors 'none';"
    " base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: browsers would then send "Origin: null" with the forms of the page itself.
    "Referrer-Policy": "same-origin",
    "X-Robots-Tag": "noindex, nofollow",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}

#: The ports that an origin does not name.
DEFAULT_PORTS = {"http": 80, "https": 443}


def bound_body() -> None:
    """Refuse a larger body. The bridge has the same limit, ``flask run`` and tests have none."""
    request.max_content_length = FORM_BYTES


def require_same_origin() -> None:
    """Refuse a request that another site started. Raises 403.

    A link on another site may lead to a page, but another site may not load one. A program with a
    Bearer token needs no CSRF token: no browser sends a Bearer token by itself.
    """
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if request.method in SAFE_METHODS:
        is_link = request.headers.get("Sec-Fetch-Dest") == "document"
        if site in {"cross-site", "same-site"} and not is_link:
            raise Forbidden("Another site may not load this page.")
        return
    if not _is_own(site, origin):
        raise Forbidden(
            "The request was started by another site. Nothing was changed. If you used a form of"
            " this page, your proxy changes the header Host, which has to name this site."
        )
    if viewer().is_browser or site or origin:
        given = request.form.get(CSRF_FIELD, "")
        if not hmac.compare_digest(given.encode(), viewer().csrf_token.encode()):
            raise Forbidden(
                "The form is out of date: your name or the token has changed. Nothing was changed."
                " Load the page again."
            )


def _is_own(site: str | None, origin: str | None) -> bool:
    """Return true if this site started the request, or a program that is no browser.

    Browsers send ``Sec-Fetch-Site`` to https and to this machine, and ``Origin`` with every POST.
    """
    if site is not None:
        return site == "same-origin"
    if origin is None:
        return True
    scheme = origin.partition(":")[0]
    given, own = _authority(origin), _authority(f"{scheme}://{host()}")
    return given is not None and given == own


def host() -> str:
    """Return the ``Host`` of this request. The bridge hides it from Flask."""
    return str(request.environ.get(wsgi.HOST) or request.host)


def _authority(url: str) -> tuple[str, int | None] | None:
    """Return the host and the port of a URL. None without a host, or with a user name."""
    try:
        parts = urlsplit(url)
        port = parts.port or DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return None
    return (parts.hostname, port) if parts.hostname and "@" not in parts.netloc else None


def add_headers(response: Response) -> Response:
    """Return the response with the headers that protect a page."""
    response.headers.extend(HEADERS)
    response.headers.setdefault("Cache-Control", "no-store")
    return response
