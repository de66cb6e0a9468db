"""The event lists of the stand-in, for events of both kinds.

That of thin events is here: ``GET /v2/core/events`` as the SDK uses it. It reads the queries that
the SDK sends (``types[0]=...&created[gte]=...&limit=...``). It answers with a page of events, the
newest first, and the address of the next page (https://docs.stripe.com/api/v2/core/events/list).
"""

from __future__ import annotations

import base64
import json
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from werkzeug import Request, Response

from app.stripe_api.event_body import SNAPSHOT_EVENT
from devkit import list_queries, snapshot_list
from devkit.api_answers import RefusedRequestError, json_answer
from devkit.list_queries import COMPARE, refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PATH = "/v2/core/events"
PAGE = 20


class EventList:
    """The events of the stand-in, listed by kind and by account."""

    def __init__(self) -> None:
        """Start with no events."""
        self._lock = threading.Lock()
        self._events: dict[str, dict[str, Any]] = {}
        self._pages = 0
        self._acts: dict[int, Callable[[], object]] = {}
        self._forgotten = 0

    def put(self, event: Mapping[str, Any]) -> None:
        """List an event (see ``samples.event`` and ``samples.snapshot_event``) from now on."""
        with self._lock:
            self._events[event["id"]] = dict(event)

    def remove(self, event_id: str) -> None:
        """Stop listing the event."""
        with self._lock:
            self._events.pop(event_id, None)

    def after_page(self, number: int, act: Callable[[], object]) -> None:
        """Call ``act`` once, after ``number`` more pages: a test can change the list in between."""
        self._acts[self._pages + number] = act

    def forget_pages(self) -> None:
        """Let all page tokens of the list of thin events expire."""
        self._forgotten += 1

    def answer(self, request: Request) -> Response | None:
        """Answer a request for a list. Returns ``None`` for any other request."""
        if request.method != "GET" or request.path not in {PATH, snapshot_list.PATH}:
            return None
        query = list(request.args.items(multi=True))
        context = request.headers.get("Stripe-Context", "")
        is_snapshot = request.path == snapshot_list.PATH
        events = self._listed(context, is_snapshot=is_snapshot)
        try:
            page = snapshot_list.page(query, events) if is_snapshot else self._page(query, events)
        except RefusedRequestError as refused:
            return refused.answer
        self._pages += 1
        self._acts.pop(self._pages, lambda: None)()
        return json_answer(page)

    def _listed(self, context: str, *, is_snapshot: bool) -> list[dict[str, Any]]:
        with self._lock:
            events = list(self._events.values())
        return [
            event
            for event in events
            if _context(event) == context and (event.get("object") == SNAPSHOT_EVENT) is is_snapshot
        ]

    def _page(self, query: list[tuple[str, str]], events: list[dict[str, Any]]) -> dict[str, Any]:
        matches, limit, cursor = _read(query, self._forgotten)
        found = sorted((event for event in events if matches(event)), key=_place, reverse=True)
        rest = [event for event in found if cursor is None or _place(event) < cursor]
        page, more = rest[:limit], rest[limit:]
        asked = [(name, value) for name, value in query if name != "page"]
        following = [*asked, ("page", self._token(page[-1]))] if more else None
        return {
            "data": page,
            "next_page_url": f"{PATH}?{urlencode(following)}" if following else None,
            "previous_page_url": None,
        }

    def _token(self, last: Mapping[str, Any]) -> str:
        words = [self._forgotten, *_place(last)]
        return base64.urlsafe_b64encode(json.dumps(words).encode()).decode()


def _context(event: Mapping[str, Any]) -> str:
    return str(event.get("context") or event.get("account") or "")


def _place(event: Mapping[str, Any]) -> tuple[str, str]:
    """Return the sort key of the list."""
    return event["created"], event["id"]


def _read(
    query: list[tuple[str, str]], forgotten: int
) -> tuple[Callable[[Mapping[str, Any]], bool], int, tuple[str, str] | None]:
    """Read a query. Returns the condition, the size of the page, and the last event before it."""
    types, limit, cursor = [], PAGE, None
    tests: list[Callable[[Mapping[str, Any]], bool]] = [_is_kept]
    for name, value in query:
        if list_queries.TYPES.fullmatch(name):
            types.append(value)
        elif bound := list_queries.BOUND.fullmatch(name):
            tests.append(_compared(bound[1], value))
        elif name == "object_id":
            tests.append(_about(value))
        elif name == "limit":
            limit = list_queries.read_limit(value)
        elif name == "page":
            cursor = _cursor(value, forgotten)
        else:
            raise refusal(f"Received unknown parameter: {name}")
    list_queries.check_types(types)
    if types:
        tests.append(lambda event: event["type"] in types)
    return lambda event: all(test(event) for test in tests), limit, cursor


def _is_kept(event: Mapping[str, Any]) -> bool:
    return _moment(event["created"]) > datetime.now(UTC) - list_queries.KEPT


def _compared(how: str, value: str) -> Callable[[Mapping[str, Any]], bool]:
    bound, compare = _moment(value), COMPARE[how]
    return lambda event: compare(_moment(event["created"]), bound)


def _about(object_id: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda event: (event.get("related_object") or {}).get("id") == object_id


def _moment(value: str) -> datetime:
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        moment = datetime.min  # noqa: DTZ901 - a time without a zone is refused below
    if moment.tzinfo is None:
        raise refusal(f"Not a valid RFC 3339 timestamp: {value}")
    return moment


def _cursor(token: str, forgotten: int) -> tuple[str, str]:
    try:
        given, created, event_id = json.loads(base64.urlsafe_b64decode(token))
    except ValueError:
        given, created, event_id = -1, "", ""
    if given != forgotten:
        raise refusal("page: the page token is not valid, or has expired")
    return created, event_id
