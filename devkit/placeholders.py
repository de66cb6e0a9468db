"""Full events and objects of notifications, with a placeholder in every field of their classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stripe.events import _event_classes as sdk

from devkit import samples
from devkit.sdk_fields import placeholder_fields

if TYPE_CHECKING:
    from collections.abc import Mapping


def answer(
    body: Mapping[str, Any],
    path: str,
    data: Mapping[str, Any] | None = None,
    fields: Mapping[str, Any] | None = None,
    **more: Any,
) -> Mapping[str, Any] | None:
    """Return the answer of Stripe's API for ``path``: the full event or object of a ``body``.

    ``None`` for another path. ``data`` of the event of a notification and ``fields`` of its related
    object replace placeholders. For ``more`` see ``samples.event``. A snapshot event is full, with
    its object in it.
    """
    if path == samples.event_url(body):
        return body if samples.is_snapshot(body) else event(body, data, **more)
    if path != samples.object_url(body):
        return None
    return body["data"]["object"] if samples.is_snapshot(body) else api_object(body, **fields or {})


def event(
    notification: Mapping[str, Any], data: Mapping[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    """Return the full event of ``notification``. ``data`` replaces placeholders of its type.

    If the SDK knows no data of the type, the event has only the given ``data``. For ``more`` see
    ``samples.event``.
    """
    event_class = sdk.get_v2_event_class(notification["type"])
    hint = getattr(event_class, "__annotations__", {}).get("data")
    whole = {**(placeholder_fields(hint) if hint else {}), **(data or {})}
    return samples.event(notification, whole or None, **more)


def api_object(notification: Mapping[str, Any], **fields: object) -> dict[str, Any]:
    """Return the related object of ``notification``. ``fields`` replace placeholders.

    For a type that the SDK does not know, it has only its id and its kind.
    """
    event_type = notification["type"]
    related = samples.related_class(event_type) if event_type in samples.event_types() else None
    own = samples.api_object(notification, **fields)
    return {**(placeholder_fields(related) if related else {}), **own}
