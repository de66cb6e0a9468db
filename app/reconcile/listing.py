"""Reads Stripe's lists of events, one for each kind.

https://docs.stripe.com/api/v2/core/events/list has the thin events, and
https://docs.stripe.com/api/events/list the snapshot events.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import stripe

from app.errors import Refused
from app.inbox import NewEvent
from app.reconcile.windows import Window
from app.stripe_api.catalog import Kind
from app.stripe_api.event_body import read_event

#: Events on one page of a list.
PAGE = 100

#: The fields of a notification. A callback fetches the rest of the event when it needs it.
FIELDS = ("id", "object", "type", "livemode", "created", "context", "reason", "related_object")


@dataclass(frozen=True, slots=True)
class ListedEvent:
    """An event of one of Stripe's lists.

    ``created`` is a time in RFC 3339 with milliseconds, so that times of both lists can be sorted.
    """

    event: NewEvent
    created: str


def list_events(
    client: stripe.StripeClient, window: Window, *, only_undelivered: bool = False
) -> Iterator[ListedEvent]:
    """Yield the events that Stripe lists in the ``window``, page by page, the newest first.

    With ``only_undelivered``, snapshot events that each webhook endpoint has answered with 2xx are
    left out. Stripe leaves out events that it has sent to no endpoint, too. The list of thin events
    has no such filter. Raises ``stripe.StripeError``.
    """
    options: Any = {"stripe_context": window.context} if window.context else {}
    is_thin = window.kind is Kind.THIN
    created: Any = {"gte": window.begin, "lt": window.end}
    if is_thin:
        created = {bound: _rfc3339(at) for bound, at in created.items()}
    params: Any = {"types": list(window.types), "created": created, "limit": PAGE}
    if only_undelivered and not is_thin:
        params["delivery_success"] = False
    events: Any = client.v2.core.events if is_thin else client.v1.events
    listing = events.list(params, options)
    read = _read_thin if is_thin else _read_snapshot
    for event in listing.auto_paging_iter():
        # The SDK reads decimal numbers into a type of their own.
        values = event.to_dict(for_json=True) if isinstance(event, stripe.StripeObject) else {}
        try:
            yield read(values, window.context)
        except Refused as error:
            raise stripe.APIError(f"a listed event cannot be read: {error.message}") from None


def _read_thin(values: dict[str, Any], context: str) -> ListedEvent:
    """Return a listed event as Stripe would have delivered it. Raises ``Refused``."""
    thin = {name: values[name] for name in FIELDS if values.get(name) is not None}
    if context:
        thin.setdefault("context", context)
    return ListedEvent(_read(thin), str(values.get("created")))


def _read_snapshot(values: dict[str, Any], context: str) -> ListedEvent:
    """Return a listed event as Stripe would have delivered it. Raises ``Refused``.

    A delivered event names its account. In the list of an account the name may be missing.
    """
    full = dict(values)
    if context and not full.get("account"):
        full["account"] = context.rpartition("/")[2]
    if "/" in context and not full.get("context"):
        full["context"] = context
    event = _read(full)
    try:
        created = _rfc3339(full["created"])
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        raise Refused("the event has no usable time", reason="not_an_event") from None
    return ListedEvent(event, created)


def _read(values: dict[str, Any]) -> NewEvent:
    return read_event(json.dumps(values, separators=(",", ":")).encode())


def _rfc3339(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
