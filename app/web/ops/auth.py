"""Authentication of people on the operations page, and their rights.

There are two tokens: ``OPS_TOKEN`` for people who may act, ``OPS_READ_TOKEN`` for those who may
look. A browser sends one as the password of HTTP Basic, with the person's name as the user name. A
program sends it as a Bearer token.

The name goes into the audit log. It is stated, not verified: all people share a token.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from flask import current_app, request
from werkzeug.datastructures import Authorization, WWWAuthenticate
from werkzeug.exceptions import Forbidden, TooManyRequests, Unauthorized
from werkzeug.wrappers import Request

from app.services import services
from app.settings import Settings
from app.text import printable

#: Failed authentications of one address in ``SECONDS``. Further ones get 429.
FAILURES = 10
SECONDS = 60

#: The addresses that are counted apart. The failures of all further ones are counted together.
ADDRESSES = 1000
OTHERS = "others"

#: The maximum length of a person's name in the audit log, in characters.
NAME_LENGTH = 60

#: The name of a program that sends a Bearer token and no ``X-Operator``.
BEARER_NAME = "token"

#: A browser asks for the name and the password of this realm.
REALM = "Operations page of stripe-event-receiver"

#: The key of the WSGI environment with the viewer of the request.
VIEWER = "stripe_receiver.viewer"

#: The methods that change nothing.
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class Viewer:
    """An authenticated person, or a program with a Bearer token.

    ``sees_bodies``: the bodies of events are shown. ``is_browser``: a browser can send these
    credentials by itself. ``csrf_token``: what each form has to return.
    """

    name: str
    may_act: bool
    sees_bodies: bool
    is_browser: bool
    csrf_token: str = field(repr=False)


class FailureLimit:
    """Counts failed authentications by address in one process, in bounded memory."""

    def __init__(self) -> None:
        """Start without a failure."""
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._end = 0.0

    def allows(self, address: str) -> bool:
        """Count a failure. False if the ``address`` has had ``FAILURES`` in this period."""
        now = time.monotonic()
        with self._lock:
            if now >= self._end:
                self._counts.clear()
                self._end = now + SECONDS
            key = _network(address)
            if key not in self._counts and len(self._counts) >= ADDRESSES:
                key = OTHERS
            self._counts[key] += 1
            return self._counts[key] <= FAILURES


def _network(address: str) -> str:
    """Return the address, or the /64 of an IPv6 address: one client can use all of it."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return OTHERS
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped:
        parsed = parsed.ipv4_mapped  # an IPv4 client of an IPv6 socket
    bits = 64 if isinstance(parsed, ipaddress.IPv6Address) else 32
    return str(ipaddress.ip_network((parsed, bits), strict=False))


def viewer() -> Viewer:
    """Return the viewer of this request, which ``require_viewer`` has authenticated."""
    found: Viewer = request.environ[VIEWER]
    return found


def found_viewer() -> Viewer | None:
    """Return the viewer of this request, or None if it is not authenticated."""
    found: Viewer | None = request.environ.get(VIEWER)
    return found


def is_authorized(incoming: Request, settings: Settings) -> bool:
    """Return true if a request has one of the tokens."""
    return _identify(incoming, settings) is not None


def require_viewer() -> None:
    """Authenticate the request. Raises 401, or 429 after many failures of its address.

    A request with a right token always passes. Behind a proxy, all clients have one address, so a
    limit on it would let anyone lock out the people on call. A random token needs no such limit.
    """
    parts = services()
    found = _identify(request, parts.settings)
    if found is not None:
        request.environ[VIEWER] = found
        return
    challenge = WWWAuthenticate("basic", {"realm": REALM, "charset": "UTF-8"})
    if "Authorization" not in request.headers:  # as in the first request of each browser
        raise Unauthorized(
            "Your browser asks for a user name and a password: your own name, and the token.",
            www_authenticate=challenge,
        )
    failures: FailureLimit = current_app.extensions["ops_failures"]
    is_allowed = failures.allows(request.remote_addr or "")
    parts.refusals.write("wrong_ops_token", status=401 if is_allowed else 429)
    if not is_allowed:
        raise TooManyRequests(
            "Too many wrong tokens came from your address. Use the right one, or wait a minute.",
            retry_after=SECONDS,
        )
    raise Unauthorized(
        "The user name must be your own name, and the password the token of this service.",
        www_authenticate=challenge,
    )


def require_right_to_act() -> None:
    """Refuse a change by a viewer who may only look. Raises 403."""
    if request.method not in SAFE_METHODS and not viewer().may_act:
        raise Forbidden("Your token may look and change nothing. Use the one in OPS_TOKEN.")


def _identify(incoming: Request, settings: Settings) -> Viewer | None:
    name, token = _credentials(incoming.authorization, incoming.headers.get("X-Operator", ""))
    given = token.encode()
    # Both comparisons are made each time, so that the duration says nothing.
    may_act = hmac.compare_digest(given, settings.ops_token.encode())
    may_look = hmac.compare_digest(given, settings.ops_read_token.encode())
    if not (name and token and (may_act or may_look)):
        return None
    is_browser = incoming.authorization is not None and incoming.authorization.type == "basic"
    return Viewer(
        name=name,
        may_act=may_act,
        sees_bodies=may_act or settings.ops_read_bodies == "on",
        is_browser=is_browser,
        csrf_token=hmac.new(given, f"csrf {name}".encode(), hashlib.sha256).hexdigest(),
    )


def _credentials(given: Authorization | None, operator: str) -> tuple[str, str]:
    """Return the name of the person and the token, both empty if there are none."""
    if given is None:
        return "", ""
    if given.type == "basic":
        return _clean(given.username or ""), given.password or ""
    if given.type != "bearer":
        return "", ""
    return _clean(operator) or BEARER_NAME, given.token or ""


def _clean(name: str) -> str:
    return printable(name).strip()[:NAME_LENGTH]
