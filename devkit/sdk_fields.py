"""A value for each field of a class of the SDK.

An object from Stripe has all of its fields, so a callback may read any of them. The values are
placeholders: null where the SDK allows it, otherwise the smallest value of the type.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, ClassVar, Literal, Union, cast, get_args, get_origin

import stripe

from devkit.sdk_classes import named_class

_PLAIN: dict[object, object] = {int: 0, float: 0.0, bool: False, Decimal: "0"}
_LIST = {"object": "list", "data": [], "has_more": False}


def placeholder_fields(object_class: type[stripe.StripeObject]) -> dict[str, Any]:
    """Return a value for each field of one of the SDK's classes."""
    return {
        name.removesuffix("_"): _value(name, _resolve(hint, object_class))  # from_ is Python's
        for name, hint in object_class.__annotations__.items()
        if not _is_constant(hint) and not name.startswith("_")
    }


def _resolve(hint: Any, object_class: type) -> Any:
    """Return ``hint``, or the class that its text names."""
    return named_class(hint, object_class.__module__) if isinstance(hint, str) else hint


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
        return placeholder_fields(hint)
    return _PLAIN.get(hint, f"{name}_sample")


def _is_constant(hint: object) -> bool:
    return get_origin(hint) is cast("object", ClassVar)


def _is_map(hint: object) -> bool:
    origin = get_origin(hint)
    return isinstance(origin, type) and issubclass(origin, stripe.StripeObject)
