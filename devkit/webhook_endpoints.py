"""The webhook endpoints of the stand-in, for ``list`` and ``retrieve`` of the v1 API.

These are the endpoints that a team has from before event destinations
(https://docs.stripe.com/api/webhook_endpoints). ``flask migrate`` reads them. The stand-in answers
no request that creates, changes or deletes one.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from typing import TYPE_CHECKING, Any

from werkzeug import Request, Response

from devkit.api_answers import RefusedRequestError, json_answer
from devkit.list_queries import read_limit, refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

PATH = "/v1/webhook_endpoints"
OBJECT = "webhook_endpoint"
#: The default size of a page.
PAGE = 10


class WebhookEndpoints:
    """All webhook endpoints of one account, live and test. Every method is thread-safe."""

    def __init__(self) -> None:
        """Start without an endpoint."""
        self._lock = threading.Lock()
        self._all: dict[str, dict[str, Any]] = {}

    def add(
        self, url: str, types: Sequence[str], *, endpoint_id: str | None = None, **fields: Any
    ) -> str:
        """Add an enabled endpoint for events of these ``types``, and return its id.

        ``fields`` replace the defaults, for example ``livemode=True``. Raises ``ValueError`` for an
        id that is taken.
        """
        name = endpoint_id or f"we_{secrets.token_hex(8)}"
        body = {
            "id": name,
            "object": OBJECT,
            "api_version": None,
            "application": None,
            "created": int(time.time()),
            "description": None,
            "enabled_events": list(types),
            "livemode": False,
            "metadata": {},
            "status": "enabled",
            "url": url,
            **fields,
        }
        with self._lock:
            if name in self._all:
                raise ValueError(f"there is a webhook endpoint {name!r} already")
            self._all[name] = json.loads(json.dumps(body))
        return name

    def change(self, endpoint_id: str, **fields: Any) -> None:
        """Change ``fields`` of an endpoint, as a person does in the dashboard."""
        with self._lock:
            self._all[endpoint_id].update(fields)

    def remove(self, endpoint_id: str) -> None:
        """Delete an endpoint, as a person does in the dashboard."""
        with self._lock:
            del self._all[endpoint_id]

    def answer(self, request: Request) -> Response | None:
        """Answer a GET for the list or for one endpoint. Returns ``None`` for any other request.

        An API key sees the endpoints of its own mode.
        """
        path, _, name = request.path.partition(f"{PATH}/")
        if request.method != "GET" or (path or PATH) != PATH or "/" in name:
            return None
        live = "_live_" in request.headers.get("Authorization", "")
        with self._lock:
            found = {each["id"]: each for each in self._all.values() if each["livemode"] == live}
        try:
            return json_answer(_one(found, name) if name else _page(request, found))
        except RefusedRequestError as refused:
            return refused.answer


def _one(found: dict[str, dict[str, Any]], name: str) -> dict[str, Any]:
    if name not in found:
        raise RefusedRequestError(
            f"No such webhook endpoint: '{name}'", status=404, code="resource_missing"
        )
    return found[name]


def _page(request: Request, found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return a page of the list, the newest endpoint first."""
    unknown = sorted(request.args.keys() - {"limit", "starting_after"})
    if unknown:
        raise refusal(f"Received unknown parameter: {unknown[0]}")
    limit = read_limit(request.args.get("limit", str(PAGE)))
    ids = list(reversed(found))
    last = request.args.get("starting_after")
    if last is not None:
        _one(found, last)
        ids = ids[ids.index(last) + 1 :]
    data = [found[name] for name in ids[:limit]]
    return {"object": "list", "data": data, "has_more": len(ids) > limit, "url": PATH}
