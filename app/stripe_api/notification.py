"""Reads the body of an authentic delivery."""

from __future__ import annotations

import json
import re
from typing import Any

from typing_extensions import TypeIs

from app.errors import Refused
from app.inbox import NewEvent

#: Ids, types and contexts as Stripe writes them, short enough for an index. Stripe sends nothing
#: else, and PostgreSQL cannot store some of it, such as NUL.
IDENTIFIER = re.compile(r"[\x21-\x7e]{1,255}")

SNAPSHOT = (
    "this is a snapshot event, and this service takes event notifications. Create an event"
    " destination with the payload style 'Thin' at https://dashboard.stripe.com/webhooks, and"
    " disable this one: its style cannot be changed"
)


def read_notification(body: bytes, trace: str | None = None) -> NewEvent:
    """Return the event of an event notification as the inbox stores it.

    ``trace`` is the W3C traceparent of its delivery.

    Raises ``Refused`` if ``body`` is not an event notification, or has no usable id, type or mode.
    """
    try:
        values = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        raise Refused("the body is not JSON that can be read", reason="not_json") from None
    kind = values.get("object") if isinstance(values, dict) else None
    if kind == "event":
        raise Refused(SNAPSHOT, reason="snapshot_event")
    if kind != "v2.core.event":
        raise Refused(
            "the body is not an event notification (object: v2.core.event)",
            reason="not_a_notification",
        )
    return _to_event(values, body, trace)


def _to_event(values: dict[str, Any], body: bytes, trace: str | None) -> NewEvent:
    event_id, event_type = values.get("id"), values.get("type")
    livemode, context = values.get("livemode", False), values.get("context")
    if not (_is_identifier(event_id) and _is_identifier(event_type) and isinstance(livemode, bool)):
        raise Refused(
            "the event notification has no usable id, type or livemode",
            reason="not_a_notification",
        )
    known_context = context if _is_identifier(context) else None
    key = _concurrency_key(known_context, event_type, values.get("related_object"))
    return NewEvent(event_id, event_type, livemode, known_context, body, key, trace)


def _concurrency_key(context: str | None, event_type: str, related: object) -> str:
    """Return the account with the related object, or with the event type if there is no object.

    A singleton object has no id, so its URL identifies it.
    """
    fields = related if isinstance(related, dict) else {}
    kind, object_id = fields.get("type"), fields.get("id", fields.get("url"))
    words = (
        (kind, object_id) if _is_identifier(kind) and _is_identifier(object_id) else (event_type,)
    )
    return " ".join([context or "-", *words])


def _is_identifier(value: object) -> TypeIs[str]:
    """Return whether the inbox can store ``value`` as an id, a type or a context."""
    return isinstance(value, str) and IDENTIFIER.fullmatch(value) is not None
