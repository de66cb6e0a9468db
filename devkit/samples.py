"""Samples of all events that the SDK knows, derived from the SDK.

Types, classes, kinds of objects, object names and addresses are read from the installed SDK. There
is no table to maintain, and an upgrade of the SDK upgrades the samples.

The SDK does not contain the prefixes of ids (``cs_``, ``mtr_``). So an id here consists of the name
of the object and ``sample``; pass ``object_id`` for another one.
"""

from __future__ import annotations

import inspect
import json
import re
import secrets
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast, get_args

import stripe
from stripe.v2.core import Event

from app.stripe_api.catalog import Kind, kind_of
from app.stripe_api.event_body import SNAPSHOT_EVENT
from devkit.event_classes import (
    ObjectKind,
    UnknownEventTypeError,
    event_types,
    nearest,
    related_class,
    related_object_kind,
    related_url,
    snapshot_class,
)
from devkit.sdk_classes import address, named_class, object_name, public_name
from devkit.sdk_fields import placeholder_fields

if TYPE_CHECKING:
    from collections.abc import Mapping

#: An id in an address, such as ``{account}`` or ``{account_id}``.
_PLACEHOLDER = r"\{(\w+?)(?:_id)?\}"

__all__ = [
    "Kind",
    "ObjectKind",
    "UnknownEventTypeError",
    "api_object",
    "body",
    "encode",
    "event",
    "event_types",
    "event_url",
    "is_snapshot",
    "named_class",
    "nearest",
    "notification",
    "object_name",
    "object_url",
    "public_name",
    "related_class",
    "related_object_kind",
    "related_url",
    "request_reason",
    "sample_id",
    "sign",
    "snapshot_class",
    "snapshot_event",
]


def notification(  # noqa: PLR0913 - one argument for each field of the body
    event_type: str,
    *,
    event_id: str | None = None,
    context: str | None = None,
    livemode: bool = False,
    created: datetime | None = None,
    reason: Mapping[str, Any] | None = None,
    object_id: str | None = None,
    related_object: Mapping[str, str] | None = None,
    unknown: bool = False,
) -> dict[str, Any]:
    """Return the thin body that Stripe sends for an event of ``event_type``.

    By default it has a new id and the current time as ``created``, which needs a time zone.
    ``context`` and ``reason`` (see ``request_reason``) are optional. ``object_id`` sets the id of
    the related object, ``related_object`` the whole reference. Raises ``UnknownEventTypeError`` for
    a type that the SDK does not know, unless ``unknown`` is true. Such a type has a related object
    only if you give one. (https://docs.stripe.com/api/v2/core/events/event-types)
    """
    body = {
        "id": event_id or sample_id("evt"),
        "object": Event.OBJECT_NAME,
        "type": event_type,
        "livemode": livemode,
        "created": _rfc3339(created or datetime.now(UTC)),
        "context": context,
        "reason": reason,
        "related_object": related_object,
    }
    known = not unknown or event_type in event_types()
    if known and related_object is None:
        body["related_object"] = _related_object(event_type, object_id)
    return _without_null(body)


def snapshot_event(  # noqa: PLR0913 - one argument for each field of the body
    event_type: str,
    *,
    event_id: str | None = None,
    account: str | None = None,
    context: str | None = None,
    livemode: bool = False,
    created: datetime | None = None,
    object_id: str | None = None,
    fields: Mapping[str, Any] | None = None,
    previous_attributes: Mapping[str, Any] | None = None,
    api_version: str | None = None,
    request: Mapping[str, str | None] | None = None,
    unknown: bool = False,
) -> dict[str, Any]:
    """Return the body that Stripe sends for a snapshot event of ``event_type``.

    By default it has a new id, the current time as ``created``, and the SDK's ``api_version``. The
    object has every field of its class: ``fields`` replace its placeholders, ``object_id`` its id.
    The other arguments are as in https://docs.stripe.com/api/events/object. Raises
    ``UnknownEventTypeError`` for a type that the SDK does not know, unless ``unknown`` is true. The
    object of such a type has only these ``fields``.
    """
    known = not unknown or event_type in event_types(Kind.SNAPSHOT)
    own = _snapshot_object(event_type, object_id) if known else _without_null({"id": object_id})
    data = {"object": {**own, **(fields or {})}, "previous_attributes": previous_attributes}
    body = {
        "id": event_id or sample_id("evt"),
        "object": SNAPSHOT_EVENT,
        "account": account,
        "api_version": api_version or stripe.api_version,
        "context": context,
        "created": int((created or datetime.now(UTC)).timestamp()),
        "data": _without_null(data),
        "livemode": livemode,
        "pending_webhooks": 1,
        "request": request or {"id": None, "idempotency_key": None},
        "type": event_type,
    }
    return _without_null(body)


def body(event_type: str, **fields: Any) -> dict[str, Any]:
    """Return a ``notification`` or a ``snapshot_event``, whichever ``event_type`` is.

    Raises ``TypeError`` for an argument that this kind does not have, with those that it has.
    """
    make = notification if kind_of(event_type) is Kind.THIN else snapshot_event
    _, *known = inspect.signature(make).parameters
    wrong = [name for name in fields if name not in known]
    if wrong:
        raise TypeError(f"{event_type} takes no {wrong[0]!r}. It takes {', '.join(sorted(known))}")
    return make(event_type, **fields)


def request_reason(
    request_id: str | None = None, idempotency_key: str | None = None
) -> dict[str, Any]:
    """Return the ``reason`` of an event that an API request caused."""
    request = {
        "id": request_id or sample_id("req"),
        "idempotency_key": idempotency_key or sample_id("key"),
    }
    return {"type": "request", "request": request}


def event(
    notification: Mapping[str, Any],
    data: Mapping[str, Any] | None = None,
    *,
    changes: Mapping[str, Any] | None = None,
    snapshot_event: str | None = None,
) -> dict[str, Any]:
    """Return the full event of ``notification``, as in ``GET /v2/core/events/{id}``.

    ``changes`` are those of the related object, ``before`` and ``after`` the event.
    ``snapshot_event`` is the id of the snapshot event of the same action. The event has ``data``
    only if you give it. Other fields that the SDK calls optional are null.
    """
    optional = [name for name, hint in Event.__annotations__.items() if None in _members(hint)]
    body = {**dict.fromkeys(optional), **notification}
    given = {"data": data, "changes": changes, "snapshot_event": snapshot_event}
    return {**body, **_without_null(given)}


def api_object(notification: Mapping[str, Any], **fields: object) -> dict[str, Any]:
    """Return the related object of ``notification``, as in an answer of Stripe's API.

    It has ``object``, an ``id`` unless it is a singleton, and the given ``fields``.
    """
    related = notification["related_object"]
    identity = {"id": related["id"]} if "id" in related else {}
    return {**identity, "object": related["type"], **fields}


def is_snapshot(body: Mapping[str, Any]) -> bool:
    """Return true for the body of a snapshot event, and false for a notification."""
    return bool(body["object"] == SNAPSHOT_EVENT)


def event_url(body: Mapping[str, Any]) -> str:
    """Return the path of an event of either kind at Stripe's API."""
    return f"/v1/events/{body['id']}" if is_snapshot(body) else f"/v2/core/events/{body['id']}"


def object_url(body: Mapping[str, Any]) -> str | None:
    """Return the path of the object of an event at Stripe's API, or ``None`` if there is none.

    In the path of a snapshot event's object, the ids of its parents are fields of the object, such
    as ``account``.
    """
    if not is_snapshot(body):
        related = body.get("related_object")
        return related["url"] if related else None
    known = body["type"] in event_types(Kind.SNAPSHOT)
    template = address(snapshot_class(body["type"])) if known else None
    if template is None:
        return None
    parents, _, own = template.rpartition("/")
    names = [*_placeholders(parents), *(["id"] if _placeholders(own) else [])]
    ids = [body["data"]["object"].get(name) for name in names]
    if not all(isinstance(each, str) for each in ids):
        return None
    return re.sub(_PLACEHOLDER, lambda _: str(ids.pop(0)), template)


def encode(notification: Mapping[str, Any]) -> bytes:
    """Return the body of a delivery: JSON without white space."""
    return json.dumps(notification, separators=(",", ":")).encode()


def sign(body: bytes, secret: str, timestamp: int | None = None) -> str:
    """Return the ``Stripe-Signature`` header for ``body``, signed now or at ``timestamp``.

    ``timestamp`` is in seconds since 1970. Raises ``UnicodeDecodeError`` if the body is not UTF-8:
    the SDK signs text. (https://docs.stripe.com/webhooks#verify-manually)
    """
    header = stripe.WebhookSignature.generate_signature_header(body.decode(), secret, timestamp)
    return cast("str", header)


def _related_object(event_type: str, object_id: str | None) -> dict[str, str] | None:
    """Return the reference to the related object, with sample ids in its address."""
    related, url = related_class(event_type), related_url(event_type)
    if related is None or url is None:
        return None
    name = object_name(related)
    if related_object_kind(event_type) == "singleton":
        return {"type": name, "url": _fill(url)}
    identity = object_id or sample_id(name.rpartition(".")[2])
    parents, _, _ = url.rpartition("/")
    return {"id": identity, "type": name, "url": f"{_fill(parents)}/{identity}"}


def _snapshot_object(event_type: str, object_id: str | None) -> dict[str, Any]:
    """Return the object of a snapshot event, with placeholders."""
    found = snapshot_class(event_type)
    fields = {**placeholder_fields(found), "object": object_name(found)}
    if "id" in fields:
        fields["id"] = object_id or sample_id(fields["object"].rpartition(".")[2])
    return fields


def _fill(template: str) -> str:
    """Replace each placeholder with a sample id that has its name."""
    return re.sub(_PLACEHOLDER, lambda found: sample_id(found[1]), template)


def _placeholders(template: str) -> list[str]:
    return re.findall(_PLACEHOLDER, template)


def _without_null(body: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if value is not None}


def _members(hint: object) -> list[object]:
    return [None if member is type(None) else member for member in get_args(hint)]


def sample_id(name: str) -> str:
    """Return a new id that begins with ``name``."""
    return f"{name}_sample_{secrets.token_hex(8)}"


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
