"""The event destinations of the stand-in, for ``client.v2.core.event_destinations``.

Addresses and bodies are those that the SDK sends. The answers have the fields of the SDK's class
(https://docs.stripe.com/api/v2/core/event_destinations). The stand-in refuses what Stripe's
documentation says is refused. The documentation does not name the largest page or the text of an
error: those are choices of the stand-in.
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

from werkzeug import Request, Response

from devkit import samples
from devkit.api_answers import RefusedRequestError, json_answer
from devkit.destination_requests import (
    SIGNING_SECRET,
    URL,
    check_include,
    check_types,
    check_url,
    included,
    page_url,
    read_api_version,
    read_body,
    visible,
)
from devkit.http_client import post

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PATH = "/v2/core/event_destinations"
OBJECT = "v2.core.event_destination"
PING = "v2.core.event_destination.ping"
#: The most destinations of an account, the default size of a page, and the largest one.
MOST, PAGE, LARGEST_PAGE = 16, 10, 100
#: The parameters of create and update, and the required ones of create.
CREATABLE = {"name", "type", "event_payload", "enabled_events", "events_from", "webhook_endpoint"}
CREATABLE |= {"include", "description", "metadata", "snapshot_api_version"}
UPDATABLE = {"name", "enabled_events", "webhook_endpoint", "include", "description", "metadata"}
REQUIRED = ("name", "type", "event_payload", "enabled_events")


class Destinations:
    """All event destinations of one account, live and test. Every method is thread-safe.

    ``put_event`` is called with the event of each ping, so that the stand-in serves it.
    """

    def __init__(self, put_event: Callable[[Mapping[str, Any]], None]) -> None:
        """Start without a destination."""
        self._put_event = put_event
        self._lock = threading.RLock()
        self._all: dict[str, dict[str, Any]] = {}
        self._secrets: dict[str, str] = {}
        self._answered: dict[str, bytes] = {}
        self._pool: ThreadPoolExecutor | None = None
        self.before_answer: Callable[[Request], object] | None = None
        """Called with each request before its answer: a test can change data in between."""

    def add(self, url: str, types: list[str], *, secret: str | None = None, **fields: Any) -> str:
        """Add a webhook endpoint, thin by default, and return its id.

        ``fields`` replace the defaults, for example ``event_payload="snapshot"``.
        """
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
        """Change ``fields`` of a destination, as a person does in the dashboard."""
        with self._lock:
            self._all[destination_id].update(fields, updated=_now())

    def get(self, destination_id: str) -> dict[str, Any]:
        """Return the current state of a destination, with its URL."""
        with self._lock:
            return json.loads(json.dumps(self._all[destination_id]))  # type: ignore[no-any-return]  # JSON

    def secret(self, destination_id: str) -> str:
        """Return the signing secret of a destination."""
        with self._lock:
            return self._secrets[destination_id]

    def remove(self, destination_id: str) -> None:
        """Delete a destination, as a person does in the dashboard."""
        with self._lock:
            del self._all[destination_id]

    @property
    def ids(self) -> list[str]:
        """The ids of all destinations, the newest first, as in the list."""
        with self._lock:
            return list(reversed(self._all))

    def close(self) -> None:
        """Wait until all pings are delivered."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool:
            pool.shutdown()

    def answer(self, request: Request) -> Response | None:
        """Answer a request for an address below ``PATH``. Returns ``None`` for any other request.

        A POST with a known idempotency key gets the answer of the first one.
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
                        return json_answer(body)
                    self._answered[key] = body
                return json_answer(self._answered[key])
        except RefusedRequestError as refused:
            return refused.answer

    def _action(self, request: Request) -> Callable[[], dict[str, Any]] | None:
        """Return the action for the method and the address of ``request``."""
        live = "_live_" in request.headers.get("Authorization", "")
        found = re.fullmatch(rf"{PATH}(?:/(\w+))?(?:/(enable|disable|ping))?", request.path)
        if not found:
            return None
        name = found[1] or ""
        actions: dict[tuple[str, bool, str | None], Callable[[], dict[str, Any]]] = {
            ("GET", False, None): lambda: self._list(request, live=live),
            ("POST", False, None): lambda: self._create(read_body(request, CREATABLE), live=live),
            ("GET", True, None): lambda: visible(self._find(name, live=live), included(request)),
            ("POST", True, None): lambda: self._update(
                name, read_body(request, UPDATABLE), live=live
            ),
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
            raise RefusedRequestError(
                f"No such event destination in {mode} mode: {name}", status=404, code="not_found"
            )
        return found

    def _list(self, request: Request, *, live: bool) -> dict[str, Any]:
        """Return one page. The cursor is the id of the last destination on the page before."""
        limit = request.args.get("limit", str(PAGE))
        if not (limit.isdigit() and 1 <= int(limit) <= LARGEST_PAGE):
            raise RefusedRequestError(f"limit must be from 1 to {LARGEST_PAGE}")
        cursor, include = request.args.get("page"), included(request)
        ids = [name for name in self.ids if self._all[name]["livemode"] == live]
        if cursor and cursor not in ids:
            raise RefusedRequestError(
                "The page token is no longer valid. Begin again with the first page"
            )
        begin = ids.index(cursor) + 1 if cursor else 0
        page = ids[begin : begin + int(limit)]
        more = begin + int(limit) < len(ids)
        return {
            "data": [visible(self._all[name], include) for name in page],
            "next_page_url": page_url(request, page[-1]) if more else None,
            "previous_page_url": None,
        }

    def _create(self, given: dict[str, Any], *, live: bool) -> dict[str, Any]:
        missing = [name for name in REQUIRED if not given.get(name)]
        if missing:
            raise RefusedRequestError(f"Missing required parameter: {missing[0]}")
        include = given.pop("include", [])
        check_include(include, {URL, SIGNING_SECRET})
        endpoint = given.pop("webhook_endpoint", {})
        check_url(endpoint.get("url"), live=live)
        check_types(given["enabled_events"], given["event_payload"])
        if len([one for one in self._all.values() if one["livemode"] == live]) >= MOST:
            raise RefusedRequestError(f"You have reached the maximum of {MOST} event destinations")
        version = read_api_version(given)
        body = {"events_from": ["@self"], **given, "snapshot_api_version": version}
        body["livemode"] = live
        return visible(self._all[self._insert(body, endpoint["url"], None)], include, self._secrets)

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
        """Change the given fields. A list of types replaces the current one."""
        found, include = self._find(name, live=live), given.pop("include", [])
        check_include(include, {URL})
        if "enabled_events" in given:
            check_types(given["enabled_events"], found["event_payload"])
        if "webhook_endpoint" in given:
            check_url(given["webhook_endpoint"].get("url"), live=live)
        found.update(given, updated=_now())
        return visible(found, include)

    def _delete(self, name: str, *, live: bool) -> dict[str, Any]:
        self._find(name, live=live)
        self.remove(name)
        return {"id": name, "object": OBJECT}

    def _switch(self, name: str, status: str, *, live: bool) -> dict[str, Any]:
        found = self._find(name, live=live)
        details = {"disabled": {"reason": "user"}} if status == "disabled" else None
        found.update(status=status, status_details=details, updated=_now())
        return visible(found, [])

    def _ping(self, found: dict[str, Any]) -> dict[str, Any]:
        """Create the event, serve it, and deliver its signed notification once."""
        if found["status"] != "enabled":
            raise RefusedRequestError("A disabled event destination cannot be pinged")
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
        return  # Stripe would deliver it again, for days


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
