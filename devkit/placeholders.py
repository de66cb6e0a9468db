"""Events and objects of samples with every field of the SDK's classes.

An object from Stripe has all of its fields, so a callback may read any of them. The values are
placeholders: null where the SDK allows it, otherwise the smallest value of the type.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Union, cast, get_args, get_origin

import stripe
from stripe.events import _event_classes as sdk

from devkit import samples

if TYPE_CHECKING:
    from collections.abc import Mapping

_PLAIN: dict[object, object] = {int: 0, float: 0.0, bool: False, Decimal: "0"}
_LIST = {"object": "list", "data": [], "has_more": False}


def event(notification: Mapping[str, Any], data: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the full event of ``notification``. ``data`` replaces placeholders of its type.

    If the SDK knows no data of the type, the event has only the given ``data``.
    """
    event_class = sdk.get_v2_event_class(notification["type"])
    hint = getattr(event_class, "__annotations__", {}).get("data")
    whole = {**(_fields(hint) if hint else {}), **(data or {})}
    return samples.event(notification, whole or None)


def api_object(notification: Mapping[str, Any], **fields: object) -> dict[str, Any]:
    """Return the related object of ``notification``. ``fields`` replace placeholders.

    For a type that the SDK does not know, it has only its id and its kind.
    """
    event_type = notification["type"]
    related = samples.related_class(event_type) if event_type in samples.event_types() else None
    own = samples.api_object(notification, **fields)
    return {**(_fields(related) if related else {}), **own}


def _fields(object_class: type[stripe.StripeObject]) -> dict[str, Any]:
    """Return a value for each field of one of the SDK's classes."""
    return {
        name.removesuffix("_"): _value(name, _resolve(hint, object_class))  # from_ is Python's
        for name, hint in object_class.__annotations__.items()
        if not _is_constant(hint) and not name.startswith("_")
    }


def _resolve(hint: Any, object_class: type) -> Any:
    """Return ``hint``, or the class that its text names."""
    return samples.named_class(hint, object_class.__module__) if isinstance(hint, str) else hint


def _value(name: str, hint: Any) -> object:
    """Return the smallest value of the type ``hint``. A text names its field."""
    origin, members = get_origin(hint), get_args(hint)
    if origin is Union:
        # The SDK cannot read a null map of objects (stripe 16.1.0). An empty map is equivalent.
        can_be_null = type(None) in members and not _is_map(members[0])
        return None if can_be_null else _value(name, members[0])
    if origin is Literal:
        return members[0]
    if origin is stripe.ListObject:
        return _LIST
    if origin is not None:
        return [] if origin is list else {}
    if isinstance(hint, type) and issubclass(hint, stripe.StripeObject):
        return _fields(hint)
    return _PLAIN.get(hint, f"{name}_sample")


def _is_constant(hint: object) -> bool:
    return get_origin(hint) is cast("object", ClassVar)


def _is_map(hint: object) -> bool:
    origin = get_origin(hint)
    return isinstance(origin, type) and issubclass(origin, stripe.StripeObject)
