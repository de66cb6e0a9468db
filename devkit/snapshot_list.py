"""The list of snapshot events of the stand-in: ``GET /v1/events`` as the SDK uses it.

It reads the queries that the SDK sends (``types[0]=...&created[gte]=...&starting_after=...``). It
answers with a page of events, the newest first (https://docs.stripe.com/api/events/list). The
parameters ``type``, ``ending_before`` and ``expand`` are not implemented, and refused.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from devkit import list_queries
from devkit.list_queries import COMPARE, refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    Condition = Callable[[Mapping[str, Any]], bool]

PATH = "/v1/events"
PAGE = 10


def page(query: Iterable[tuple[str, str]], events: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the page of ``events`` that the ``query`` selects. Raises ``RefusedRequestError``."""
    matches, limit, cursor = _read(query)
    places = {event["id"]: _place(event) for event in events}
    if cursor is not None and cursor not in places:
        raise refusal(f"No such event: '{cursor}'")
    found = sorted((event for event in events if matches(event)), key=_place, reverse=True)
    rest = [event for event in found if cursor is None or _place(event) < places[cursor]]
    return {"object": "list", "data": rest[:limit], "has_more": len(rest) > limit, "url": PATH}


def _place(event: Mapping[str, Any]) -> tuple[int, str]:
    """Return the sort key of the list."""
    return event["created"], event["id"]


def _read(query: Iterable[tuple[str, str]]) -> tuple[Condition, int, str | None]:
    """Read a query. Returns the condition, the size of the page, and the last event before it."""
    types, limit, cursor = [], PAGE, None
    oldest = time.time() - list_queries.KEPT.total_seconds()
    tests: list[Condition] = [lambda event: event["created"] > oldest]
    for name, value in query:
        if list_queries.TYPES.fullmatch(name):
            types.append(value)
        elif bound := list_queries.BOUND.fullmatch(name):
            tests.append(_compared(bound[1], value))
        elif name == "delivery_success":
            tests.append(_delivered(value))
        elif name == "limit":
            limit = list_queries.read_limit(value)
        elif name == "starting_after":
            cursor = value
        else:
            raise refusal(f"Received unknown parameter: {name}")
    list_queries.check_types(types)
    if types:
        tests.append(lambda event: event["type"] in types)
    return lambda event: all(test(event) for test in tests), limit, cursor


def _compared(how: str, value: str) -> Condition:
    if not value.isdecimal():
        raise refusal(f"Invalid integer: {value}")
    bound, compare = int(value), COMPARE[how]
    return lambda event: compare(event["created"], bound)


def _delivered(value: str) -> Condition:
    """Return the condition that all webhooks of an event are delivered, or that one is not."""
    if value not in {"true", "false"}:
        raise refusal(f"Invalid boolean: {value}")
    wanted = value == "true"
    return lambda event: (event["pending_webhooks"] == 0) is wanted
