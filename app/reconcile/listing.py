"""Reads Stripe's list of events (https://docs.stripe.com/api/v2/core/events/list)."""

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
from app.stripe_api.event_body import read_event

#: Events on one page of the list.
PAGE = 100

#: The fields of a notification. A callback fetches the rest of the event when it needs it.
FIELDS = ("id", "object", "type", "livemode", "created", "context", "reason", "related_object")


@dataclass(frozen=True, slots=True)
class ListedEvent:
    """An event of Stripe's list. ``created`` is the text of that field."""

    event: NewEvent
    created: str


def list_events(client: stripe.StripeClient, window: Window) -> Iterator[ListedEvent]:
    """Yield the events that Stripe lists in the ``window``, page by page.

    Raises ``stripe.StripeError``.
    """
    created = {"gte": _rfc3339(window.begin), "lt": _rfc3339(window.end)}
    params: Any = {"types": list(window.types), "created": created, "limit": PAGE}
    options: Any = {"stripe_context": window.context} if window.context else {}
    events: Any = client.v2.core.events.list(params, options)
    for event in events.auto_paging_iter():
        values = event.to_dict() if isinstance(event, stripe.StripeObject) else {}
        try:
            yield _read(values, window.context)
        except Refused as error:
            raise stripe.APIError(f"a listed event cannot be read: {error.message}") from None


def _read(values: dict[str, Any], context: str) -> ListedEvent:
    """Return a listed event as Stripe would have delivered it. Raises ``Refused``."""
    thin = {name: values[name] for name in FIELDS if values.get(name) is not None}
    if context:
        thin.setdefault("context", context)
    body = json.dumps(thin, separators=(",", ":")).encode()
    return ListedEvent(read_event(body), str(values.get("created")))


def _rfc3339(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
