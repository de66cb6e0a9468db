"""The classes of the SDK for each event type: of its notification, and of its object."""

from __future__ import annotations

import difflib
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Literal, cast, get_args

import stripe
from stripe import _object_classes as sdk

from app.stripe_api import catalog
from app.stripe_api.catalog import Kind
from devkit.sdk_classes import address, named_class, object_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stripe.v2.core import EventNotification

ObjectKind = Literal["object", "singleton", "none"]

_KINDS: dict[str, ObjectKind] = {
    "RelatedObject": "object",
    "RelatedSingletonObject": "singleton",
}
#: The object of the snapshot types that no name in the SDK leads to. It can be a card, too.
_OBJECTS = {"account.external_account": "bank_account"}


class UnknownEventTypeError(LookupError):
    """The installed SDK has no such event type."""

    def __init__(self, event_type: str) -> None:
        """Take the unknown ``event_type``, and find the ``nearest`` known ones."""
        self.event_type = event_type
        self.nearest = nearest(event_type)
        super().__init__(f"{event_type!r} is no event type of stripe {stripe.VERSION}")


def event_types(kind: Kind = Kind.THIN) -> list[str]:
    """Return all event types of one ``kind`` that the installed SDK knows, sorted."""
    return sorted(catalog.event_types(kind))


def nearest(event_type: str) -> list[str]:
    """Return up to three types with a similar spelling, the best match first."""
    return difflib.get_close_matches(event_type, sorted(catalog.event_types()), n=3)


def related_object_kind(event_type: str) -> ObjectKind:
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


def related_url(event_type: str) -> str | None:
    """Return the address of the related object as a template, or ``None`` without an object.

    The last placeholder is the id of the object, the others are ids of its parents. Raises
    ``UnknownEventTypeError`` for a type that the SDK does not know.
    """
    related = related_class(event_type)
    return address(related) if related else None


def snapshot_class(event_type: str) -> type[stripe.StripeObject]:
    """Return the class of the object in snapshot events of the type.

    Raises ``UnknownEventTypeError`` for a type that the SDK does not know.
    """
    if event_type not in catalog.event_types(Kind.SNAPSHOT):
        raise UnknownEventTypeError(event_type)
    names = _object_names(event_type)
    module, name = next(sdk.OBJECT_CLASSES[each] for each in names if each in sdk.OBJECT_CLASSES)
    return cast("type[stripe.StripeObject]", getattr(import_module(module), name))


def _object_names(event_type: str) -> Iterator[str]:
    """Yield the names that the object of a snapshot type can have, the most specific first."""
    subject, _, action = event_type.rpartition(".")
    yield f"{subject}_{action}"  # billing.alert.triggered has a billing.alert_triggered
    thin = f"v1.{event_type}"
    if thin in _notification_classes() and (related := related_class(thin)) is not None:
        yield object_name(related)
    yield subject
    yield subject.replace(".", "_")  # source.transaction.created has a source_transaction
    # customer.source.created has a source
    yield _OBJECTS.get(subject, subject.rpartition(".")[2])


@cache
def _notification_classes() -> dict[str, type[EventNotification]]:
    """All notification classes of the SDK by event type."""
    names = [reference.__forward_arg__ for reference in get_args(_all_notifications())]
    classes = [getattr(stripe.events, name) for name in names]
    return {notification_class.LOOKUP_TYPE: notification_class for notification_class in classes}


def _all_notifications() -> object:
    """The SDK's union of all its notification classes, each a forward reference."""
    return stripe.events.ALL_EVENT_NOTIFICATIONS


def _notification_class(event_type: str) -> type[EventNotification]:
    if event_type not in _notification_classes():
        raise UnknownEventTypeError(event_type)
    return _notification_classes()[event_type]
