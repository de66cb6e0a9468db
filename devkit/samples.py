"""A sample of each event notification that the SDK knows, derived from the SDK.

Types, classes, kinds of related object, object names and addresses are read from the installed
SDK. There is no table to maintain, and an upgrade of the SDK upgrades the samples.

The SDK does not contain the prefixes of ids (``cs_``, ``mtr_``). So an id here consists of the name
of the object and ``sample``; pass ``object_id`` for another one.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import json
import re
import secrets
from datetime import UTC, datetime
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import stripe
from stripe.v2.core import Event, EventNotification

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Kind = Literal["object", "singleton", "none"]

_KINDS: dict[str, Kind] = {"RelatedObject": "object", "RelatedSingletonObject": "singleton"}


class UnknownEventTypeError(LookupError):
    """The installed SDK has no such event type."""

    def __init__(self, event_type: str) -> None:
        """Take the unknown ``event_type``, and find the ``nearest`` known ones."""
        self.event_type = event_type
        self.nearest = nearest(event_type)
        super().__init__(f"{event_type!r} is no event type of stripe {stripe.VERSION}")


def event_types() -> list[str]:
    """Return all event types of the installed SDK, sorted."""
    return sorted(_classes())


def nearest(event_type: str) -> list[str]:
    """Return up to three types with a similar spelling, the best match first."""
    return difflib.get_close_matches(event_type, event_types(), n=3)


def related_object_kind(event_type: str) -> Kind:
    """Return the kind of object in notifications: ``object``, ``singleton`` (no id) or ``none``.

    Raises ``UnknownEventTypeError`` for a type that the SDK does not know.
    """
    annotation = _notification_class(event_type).__annotations__.get("related_object")
    return _KINDS[annotation.__name__] if annotation else "none"


def related_class(event_type: str) -> type[stripe.StripeObject] | None:
    """Return the class that ``fetch_related_object`` of the type returns, or ``None``.

    Raises ``UnknownEventTypeError`` for a type that the SDK does not know.
    """
    notification_class = _notification_class(event_type)
    fetch = getattr(notification_class, "fetch_related_object", None)
    if fetch is None:
        return None
    return named_class(fetch.__annotations__["return"], notification_class.__module__)


def public_name(sdk_class: type[stripe.StripeObject]) -> str:
    """Return the public import name of a class of the SDK: ``stripe.billing.Meter``."""
    return f"{sdk_class.__module__.rpartition('.')[0]}.{sdk_class.__name__}"


@cache
def named_class(name: str, module_name: str) -> type[stripe.StripeObject]:
    """Return the class that a string annotation in a module of the SDK names.

    Raises ``KeyError`` unless the module imports it, at least for type checkers.
    """
    imported = _imports(ast.parse(inspect.getsource(import_module(module_name))))
    found_in, _, own_name = imported[name].rpartition(".")
    return cast("type[stripe.StripeObject]", getattr(import_module(found_in), own_name))


def related_url(event_type: str) -> str | None:
    """Return the address of the related object as a template, or ``None`` without an object.

    It is the path in the services of the SDK, such as ``/v1/billing/meters/{id}``. The last
    placeholder is the id of the object, the others are ids of its parents. Raises
    ``UnknownEventTypeError`` for a type that the SDK does not know.
    """
    related = related_class(event_type)
    return _addresses()[f"{related.__module__}.{related.__qualname__}"] if related else None


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
        "id": event_id or _sample_id("evt"),
        "object": Event.OBJECT_NAME,
        "type": event_type,
        "livemode": livemode,
        "created": _rfc3339(created or datetime.now(UTC)),
        "context": context,
        "reason": reason,
        "related_object": related_object,
    }
    known = not unknown or event_type in _classes()
    if known and related_object is None:
        body["related_object"] = _related_object(event_type, object_id)
    return {name: value for name, value in body.items() if value is not None}


def request_reason(
    request_id: str | None = None, idempotency_key: str | None = None
) -> dict[str, Any]:
    """Return the ``reason`` of an event that an API request caused."""
    request = {
        "id": request_id or _sample_id("req"),
        "idempotency_key": idempotency_key or _sample_id("key"),
    }
    return {"type": "request", "request": request}


def event(notification: Mapping[str, Any], data: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the full event of ``notification``, as in ``GET /v2/core/events/{id}``.

    It has ``data`` only if you give it. Other fields that the SDK calls optional are null.
    """
    optional = [name for name, hint in Event.__annotations__.items() if None in _members(hint)]
    body = {**dict.fromkeys(optional), **notification}
    return body if data is None else {**body, "data": data}


def api_object(notification: Mapping[str, Any], **fields: object) -> dict[str, Any]:
    """Return the related object of ``notification``, as in an answer of Stripe's API.

    It has ``object``, an ``id`` unless it is a singleton, and the given ``fields``.
    """
    related = notification["related_object"]
    identity = {"id": related["id"]} if "id" in related else {}
    return {**identity, "object": related["type"], **fields}


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


@cache
def _classes() -> dict[str, type[EventNotification]]:
    """All notification classes of the SDK by event type."""
    names = [reference.__forward_arg__ for reference in get_args(_all_notifications())]
    classes = [getattr(stripe.events, name) for name in names]
    return {notification_class.LOOKUP_TYPE: notification_class for notification_class in classes}


def _all_notifications() -> object:
    """The SDK's union of all its notification classes, each a forward reference."""
    return stripe.events.ALL_EVENT_NOTIFICATIONS


def _notification_class(event_type: str) -> type[EventNotification]:
    if event_type not in _classes():
        raise UnknownEventTypeError(event_type)
    return _classes()[event_type]


def _related_object(event_type: str, object_id: str | None) -> dict[str, str] | None:
    """Return the reference to the related object, with sample ids in its address."""
    related, url = related_class(event_type), related_url(event_type)
    if related is None or url is None:
        return None
    object_name = cast("str", related.OBJECT_NAME)  # type: ignore[attr-defined]  # all have it
    if related_object_kind(event_type) == "singleton":
        return {"type": object_name, "url": _fill(url)}
    identity = object_id or _sample_id(object_name.rpartition(".")[2])
    parents, _, _ = url.rpartition("/")
    return {"id": identity, "type": object_name, "url": f"{_fill(parents)}/{identity}"}


def _fill(template: str) -> str:
    """Replace each placeholder with a sample id that has its name."""
    return re.sub(r"\{(\w+?)(?:_id)?\}", lambda found: _sample_id(found[1]), template)


@cache
def _addresses() -> dict[str, str]:
    """The address of each class that a service of the SDK returns, by the full class name.

    The address is that of ``retrieve``. Of several addresses, the one with the fewest placeholders
    wins. A class without ``retrieve`` (``Discount``) has the address of another method.
    """
    found: dict[str, list[tuple[bool, int, str]]] = {}
    for path in Path(inspect.getfile(stripe)).parent.rglob("_*_service.py"):
        for method, returned, url in _calls(ast.parse(path.read_text(encoding="utf-8"))):
            found.setdefault(returned, []).append((method != "retrieve", url.count("{"), url))
    return {returned: min(urls)[2] for returned, urls in found.items()}


def _calls(service: ast.Module) -> Iterator[tuple[str, str, str]]:
    """Yield the name, the returned class and the address of each method of a service."""
    imported = _imports(service)
    for node in ast.walk(service):
        if isinstance(node, ast.FunctionDef) and isinstance(node.returns, ast.Constant):
            for url in _urls(node):
                yield node.name, imported.get(str(node.returns.value), ""), url


def _urls(function: ast.FunctionDef) -> list[str]:
    constants = [node.value for node in ast.walk(function) if isinstance(node, ast.Constant)]
    return [value for value in constants if isinstance(value, str) and value.startswith("/v")]


def _imports(module: ast.Module) -> dict[str, str]:
    """The full name of each imported name of a module, including imports for type checkers."""
    return {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(module)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def _members(hint: object) -> list[object]:
    return [None if member is type(None) else member for member in get_args(hint)]


def _sample_id(name: str) -> str:
    return f"{name}_sample_{secrets.token_hex(8)}"


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
