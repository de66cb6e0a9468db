"""Reads the body of an authentic delivery: an event notification, or a snapshot event."""

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

#: The ``object`` of an event notification, and of a snapshot event.
NOTIFICATION = "v2.core.event"
SNAPSHOT_EVENT = "event"


def read_event(body: bytes, trace: str | None = None) -> NewEvent:
    """Return the event of a delivery as the inbox stores it.

    ``trace`` is the W3C traceparent of its delivery.

    Raises ``Refused`` if ``body`` is no event, or has no usable id, type or mode.
    """
    try:
        values = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        raise Refused("the body is not JSON that can be read", reason="not_json") from None
    kind = values.get("object") if isinstance(values, dict) else None
    if kind == NOTIFICATION:
        return _to_event(values, body, trace, values.get("context"), values.get("related_object"))
    if kind == SNAPSHOT_EVENT:
        return _to_event(values, body, trace, snapshot_context(values), _object_of(values))
    raise Refused(
        "the body is neither an event notification (object: v2.core.event) nor a snapshot event"
        " (object: event)",
        reason="not_an_event",
    )


def snapshot_context(values: dict[str, Any]) -> Any:
    """Return the context of a snapshot event: its account in an organization, or its account.

    The account is missing for events of the key's own account
    (https://docs.stripe.com/api/events/object).
    """
    return values.get("context") or values.get("account")


def _object_of(values: dict[str, Any]) -> dict[str, Any]:
    """Return the object of a snapshot event in the form of a notification's related object."""
    data = values.get("data")
    found = data.get("object") if isinstance(data, dict) else None
    fields = found if isinstance(found, dict) else {}
    return {"type": fields.get("object"), "id": fields.get("id")}


def _to_event(
    values: dict[str, Any], body: bytes, trace: str | None, context: object, related: object
) -> NewEvent:
    event_id, event_type = values.get("id"), values.get("type")
    livemode = values.get("livemode", False)
    if not (_is_identifier(event_id) and _is_identifier(event_type) and isinstance(livemode, bool)):
        raise Refused("the event has no usable id, type or livemode", reason="not_an_event")
    known_context = context if _is_identifier(context) else None
    key = _concurrency_key(known_context, event_type, related)
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
