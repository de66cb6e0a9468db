"""The event types of the installed SDK, and how handler modules and the SDK spell them."""

from __future__ import annotations

import re
from difflib import get_close_matches

from stripe.events import _event_classes as sdk

#: The type of an event notification. The type of a snapshot event has no version in front.
EVENT_TYPE_SHAPE = re.compile(r"v[1-9][0-9]*\.[a-z0-9_.\[\]]+")


def event_types() -> frozenset[str]:
    """Return every event type that the installed SDK knows."""
    return frozenset(sdk._V2_EVENT_NOTIFICATION_CLASS_LOOKUP)  # noqa: SLF001 - not public


def module_name(event_type: str) -> str:
    """Return the name of the handler module for ``event_type``."""
    return event_type.replace("[", "_including_").replace("]", "").replace(".", "_")


def method_name(event_type: str) -> str:
    """Return the name of the SDK's method that registers ``event_type``."""
    return f"on_{module_name(event_type)}"


def load_classes(event_type: str) -> None:
    """Import the SDK's classes of ``event_type``, so that its first event is not slower."""
    sdk.get_v2_event_notification_class(event_type)
    sdk.get_v2_event_class(event_type)


def type_of_module(name: str) -> str | None:
    """Return the event type whose handler module has this name, or None."""
    return {module_name(event_type): event_type for event_type in event_types()}.get(name)


def nearest_module(name: str) -> str | None:
    """Return the name of a handler module that is spelled most like ``name``, or None."""
    wanted = re.sub(r"[\W_]+", "_", name).lower()
    near = get_close_matches(wanted, map(module_name, sorted(event_types())), n=1)
    return near[0] if near else None
