"""The event types of the installed SDK, and how handler modules and the SDK spell them.

An event is thin or a snapshot event (https://docs.stripe.com/event-destinations#payload-styles).
Its type says which: the types of thin events begin with a version, such as ``v1.``, and those of
snapshot events never do.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from enum import StrEnum
from functools import cache
from typing import get_args

import stripe
from stripe.events import _event_classes as sdk

#: The type of an event of either kind.
EVENT_TYPE_SHAPE = re.compile(r"[a-z][a-z0-9_]*(?:\.[a-z0-9_\[\]]+)+")
_VERSION = re.compile(r"v[1-9][0-9]*\.")


class Kind(StrEnum):
    """The kind of an event, by the name that Stripe has for its payload style."""

    THIN = "thin"
    SNAPSHOT = "snapshot"


def kind_of(event_type: str) -> Kind:
    """Return the kind of the events of this type."""
    return Kind.THIN if _VERSION.match(event_type) else Kind.SNAPSHOT


def snapshot_type(event_type: str) -> str:
    """Return the type without its version: the snapshot type of the same actions, if there is one.

    A snapshot type is returned as it is given.
    """
    return _VERSION.sub("", event_type, count=1)


def event_types(kind: Kind | None = None) -> frozenset[str]:
    """Return every event type that the installed SDK knows, of one ``kind`` or of both."""
    if kind is None:
        return _thin() | _snapshot()
    return _thin() if kind is Kind.THIN else _snapshot()


@cache
def _thin() -> frozenset[str]:
    return frozenset(sdk._V2_EVENT_NOTIFICATION_CLASS_LOOKUP)  # noqa: SLF001 - not public


@cache
def _snapshot() -> frozenset[str]:
    # The annotation is the only list in the SDK beside the parameters of endpoints.
    return frozenset(get_args(stripe.Event.__annotations__["type"]))


def module_name(event_type: str) -> str:
    """Return the name of the handler module for ``event_type``."""
    return event_type.replace("[", "_including_").replace("]", "").replace(".", "_")


def method_name(event_type: str) -> str:
    """Return the name of the SDK's method that registers ``event_type``, which is thin."""
    return f"on_{module_name(event_type)}"


def load_classes(event_type: str) -> None:
    """Import the SDK's classes of ``event_type``, so that its first event is not slower."""
    sdk.get_v2_event_notification_class(event_type)
    sdk.get_v2_event_class(event_type)


def type_of_module(name: str) -> str | None:
    """Return the event type whose handler module has this name, or None."""
    return _types_by_module().get(name)


@cache
def _types_by_module() -> dict[str, str]:
    return {module_name(event_type): event_type for event_type in event_types()}


def nearest_module(name: str) -> str | None:
    """Return the name of a handler module that is spelled most like ``name``, or None."""
    wanted = re.sub(r"[\W_]+", "_", name).lower()
    near = get_close_matches(wanted, map(module_name, sorted(event_types())), n=1)
    return near[0] if near else None
