"""The stand-in's event destinations: what ``client.v2.core.event_destinations`` asks for.

The addresses and bodies are those that the SDK sends, and the answers have the fields of the SDK's
class (https://docs.stripe.com/api/v2/core/event_destinations). What it refuses is what Stripe's
documentation says is refused; where that is silent (the largest page, the words of an error), the
stand-in's choice is its own.
"""

from __future__ import annotations

import json
import re
import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from http.client import HTTPException
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from werkzeug import Request, Response

from devkit import samples
from devkit.cli.events_send import post

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PATH = "/v2/core/event_destinations"
OBJECT = "v2.core.event_destination"
PING = "v2.core.event_destination.ping"
URL, SIGNING_SECRET = "webhook_endpoint.url", "webhook_endpoint.signing_secret"
#: How many there may be, how many a page holds unless asked otherwise, and at most.
MOST, PAGE, LARGEST_PAGE = 16, 10, 100
#: What can be given to create and to update, and what has to be.
CREATABLE = {"name", "type", "event_payload", "enabled_events", "events_from", "webhook_endpoint"}
CREATABLE |= {"include", "description", "metadata", "snapshot_api_version"}
UPDATABLE = {"name", "enabled_events", "webhook_endpoint", "include", "description", "metadata"}
REQUIRED = ("name", "type", "event_payload", "enabled_events")


class _Refused(Exception):
    """What is not done, in the words of the answer."""

    def __init__(
        self, message: str, *, status: int = 400, code: str = "invalid_parameters"
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"type": "invalid_request_error", "code": code, "message": message}}


class Destinations:
    """All event destinations of one account, live and test. Every method is safe in any thread.

    ``put_event`` is given each event that a ping makes, to be served like all others.
    """

    def __init__(self, put_event: Callable[[Mapping[str, Any]], None]) -> None:
        """Begin without a destination."""
        self._put_event = put_event
        self._lock = threading.RLock()
        self._all: dict[str, dict[str, Any]] = {}
        self._secrets: dict[str, str] = {}
        self._answered: dict[str, bytes] = {}
        self._pool: ThreadPoolExecutor | None = None
        self.before_answer: Callable[[Request], object] | None = None
        """Called with each request before it is answered, to change something meanwhile."""

    def add(self, url: str, types: list[str], *, secret: str | None = None, **fields: Any) -> str:
        """Put in a thin webhook endpoint, with any ``fields`` changed, and return its id."""
        body = {
            "name": "A destination",
            "type": "webhook_endpoint",
            "event_payload": "thin",
            "enabled_events": types,
            "events_from": ["@self"],
            "livemode": False,
            **fields,
        }
        with self._lock:
            return self._insert(body, url, secret)

    def change(self, destination_id: str, **fields: Any) -> None:
        """Change ``fields`` of a destination, as somebody does in the dashboard."""
        with self._lock:
            self._all[destination_id].update(fields, updated=_now())

    def get(self, destination_id: str) -> dict[str, Any]:
        """Return a destination as it is now, with its URL."""
        with self._lock:
            return json.loads(json.dumps(self._all[destination_id]))  # type: ignore[no-any-return]  # JSON

    def secret(self, destination_id: str) -> str:
        """Return the signing secret of a destination."""
        with self._lock:
            return self._secrets[destination_id]

    def remove(self, destination_id: str) -> None:
        """Delete a destination, as somebody does in the dashboard."""
        with self._lock:
            del self._all[destination_id]

    @property
    def ids(self) -> list[str]:
        """The ids of all destinations, the newest first, as they are listed."""
        with self._lock:
            return list(reversed(self._all))

    def close(self) -> None:
        """Wait for the deliveries of pings that are on their way."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool:
            pool.shutdown()

    def answer(self, request: Request) -> Response | None:
        """Answer a request for an address below ``PATH``, and none other.

        A POST that comes again with its idempotency key is answered as the first one was.
        """
        action = self._action(request)
        if action is None:
            return None
        key = request.headers.get("Idempotency-Key", "")
        try:
            with self._lock:
                if self.before_answer:
                    self.before_answer(request)
                if key not in self._answered:
                    body = json.dumps(action()).encode()
                    if not key:
                        return _json(body)
                    self._answered[key] = body
                return _json(self._answered[key])
        except _Refused as refused:
            return _json(json.dumps(refused.body).encode(), refused.status)

    def _action(self, request: Request) -> Callable[[], dict[str, Any]] | None:
        """Return what the method and the address of ``request`` ask for."""
        live = "_live_" in request.headers.get("Authorization", "")
        found = re.fullmatch(rf"{PATH}(?:/(\w+))?(?:/(enable|disable|ping))?", request.path)
        if not found:
            return None
        name = found[1] or ""
        actions: dict[tuple[str, bool, str | None], Callable[[], dict[str, Any]]] = {
            ("GET", False, None): lambda: self._list(request, live=live),
            ("POST", False, None): lambda: self._create(_given(request, CREATABLE), live=live),
            ("GET", True, None): lambda: _show(self._find(name, live=live), _included(request)),
            ("POST", True, None): lambda: self._update(name, _given(request, UPDATABLE), live=live),
            ("DELETE", True, None): lambda: self._delete(name, live=live),
            ("POST", True, "enable"): lambda: self._switch(name, "enabled", live=live),
            ("POST", True, "disable"): lambda: self._switch(name, "disabled", live=live),
            ("POST", True, "ping"): lambda: self._ping(self._find(name, live=live)),
        }
        return actions.get((request.method, bool(name), found[2]))

    def _find(self, name: str, *, live: bool) -> dict[str, Any]:
        found = self._all.get(name)
        if found is None or found["livemode"] != live:
            mode = "live" if live else "test"
            raise _Refused(
                f"No such event destination in {mode} mode: {name}", status=404, code="not_found"
            )
        return found

    def _list(self, request: Request, *, live: bool) -> dict[str, Any]:
        """Return one page. The cursor names the last destination that was seen."""
        limit = request.args.get("limit", str(PAGE))
        if not (limit.isdigit() and 1 <= int(limit) <= LARGEST_PAGE):
            raise _Refused(f"limit must be from 1 to {LARGEST_PAGE}")
        cursor, include = request.args.get("page"), _included(request)
        ids = [name for name in self.ids if self._all[name]["livemode"] == live]
        if cursor and cursor not in ids:
            raise _Refused("The page token is no longer valid. Begin again with the first page")
        begin = ids.index(cursor) + 1 if cursor else 0
        page = ids[begin : begin + int(limit)]
        more = begin + int(limit) < len(ids)
        return {
            "data": [_show(self._all[name], include) for name in page],
            "next_page_url": _page_url(request, page[-1]) if more else None,
            "previous_page_url": None,
        }

    def _create(self, given: dict[str, Any], *, live: bool) -> dict[str, Any]:
        lacking = [name for name in REQUIRED if not given.get(name)]
        if lacking:
            raise _Refused(f"Missing required parameter: {lacking[0]}")
        include = given.pop("include", [])
        _check_include(include, {URL, SIGNING_SECRET})
        endpoint = given.pop("webhook_endpoint", {})
        _check_url(endpoint.get("url"), live=live)
        _check_types(given["enabled_events"], given["event_payload"])
        if len([one for one in self._all.values() if one["livemode"] == live]) >= MOST:
            raise _Refused(f"You have reached the maximum of {MOST} event destinations")
        body = {"events_from": ["@self"], **given, "livemode": live}
        return _show(self._all[self._insert(body, endpoint["url"], None)], include, self._secrets)

    def _insert(self, body: dict[str, Any], url: str, secret: str | None) -> str:
        name = f"ed_test_{secrets.token_hex(8)}"
        self._all[name] = {
            "id": name,
            "object": OBJECT,
            "amazon_eventbridge": None,
            "azure_event_grid": None,
            "created": _now(),
            "description": "",
            "metadata": {},
            "snapshot_api_version": None,
            "status": "enabled",
            "status_details": None,
            "updated": _now(),
            "webhook_endpoint": {"url": url},
            **body,
        }
        self._secrets[name] = secret or f"whsec_{secrets.token_hex(16)}"
        return name

    def _update(self, name: str, given: dict[str, Any], *, live: bool) -> dict[str, Any]:
        """Change what was given. A list of types replaces the one that is there."""
        found, include = self._find(name, live=live), given.pop("include", [])
        _check_include(include, {URL})
        if "enabled_events" in given:
            _check_types(given["enabled_events"], found["event_payload"])
        if "webhook_endpoint" in given:
            _check_url(given["webhook_endpoint"].get("url"), live=live)
        found.update(given, updated=_now())
        return _show(found, include)

    def _delete(self, name: str, *, live: bool) -> dict[str, Any]:
        self._find(name, live=live)
        self.remove(name)
        return {"id": name, "object": OBJECT}

    def _switch(self, name: str, status: str, *, live: bool) -> dict[str, Any]:
        found = self._find(name, live=live)
        details = {"disabled": {"reason": "user"}} if status == "disabled" else None
        found.update(status=status, status_details=details, updated=_now())
        return _show(found, [])

    def _ping(self, found: dict[str, Any]) -> dict[str, Any]:
        """Make the event, serve it, and deliver its notification once, signed."""
        if found["status"] != "enabled":
            raise _Refused("A disabled event destination cannot be pinged")
        notification = samples.notification(PING, livemode=found["livemode"], object_id=found["id"])
        event = samples.event(notification)
        self._put_event(event)
        self._pool = self._pool or ThreadPoolExecutor(4, "pings")
        url = found["webhook_endpoint"]["url"]
        self._pool.submit(_deliver, url, notification, self._secrets[found["id"]])
        return event


def _deliver(url: str, notification: Mapping[str, Any], secret: str) -> None:
    body = samples.encode(notification)
    try:
        post(url, body, samples.sign(body, secret))
    except (OSError, HTTPException, ValueError):
        return  # Stripe would try again, for days


def _given(request: Request, allowed: set[str]) -> dict[str, Any]:
    """Read the JSON of a POST, and refuse what the call does not know."""
    try:
        given = json.loads(request.get_data())
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise _Refused("The body is no JSON object")
    unknown = sorted(given.keys() - allowed)
    if unknown:
        raise _Refused(f"Received unknown parameter: {unknown[0]}")
    return given


def _included(request: Request) -> list[str]:
    include = [value for name, value in request.args.items() if name.startswith("include[")]
    _check_include(include, {URL})
    return include


def _check_include(include: list[str], allowed: set[str]) -> None:
    unknown = [name for name in include if name not in allowed]
    if unknown:
        raise _Refused(f"include cannot hold {unknown[0]}")


def _check_url(url: str | None, *, live: bool) -> None:
    parts = urlsplit(url or "")
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise _Refused("webhook_endpoint.url must be a URL")
    if live and parts.scheme != "https":
        raise _Refused("webhook_endpoint.url must begin with https in live mode")


def _check_types(types: list[str], payload: str) -> None:
    if not types:
        raise _Refused("enabled_events must not be empty")
    if payload == "thin":
        wrong = [name for name in types if not re.fullmatch(r"v[12]\.[a-z0-9_.\[\]]+", name)]
        if wrong:
            raise _Refused(f"enabled_events of a thin destination cannot hold {wrong[0]}")


def _show(
    destination: Mapping[str, Any], include: list[str], signing: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return what an answer shows of a destination: what is redacted only if it is included."""
    endpoint = {
        "url": destination["webhook_endpoint"]["url"] if URL in include else None,
        "signing_secret": (signing or {})[destination["id"]] if SIGNING_SECRET in include else None,
    }
    return {**destination, "webhook_endpoint": endpoint}


def _page_url(request: Request, cursor: str) -> str:
    rest = [(name, value) for name, value in request.args.items() if name != "page"]
    return f"{PATH}?{urlencode([*rest, ('page', cursor)])}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _json(body: bytes, status: int = 200) -> Response:
    return Response(body, status, content_type="application/json")
