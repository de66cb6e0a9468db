"""Calls the callback of a stored event.

Event notifications go through the SDK's handler, which routes nothing else
(https://docs.stripe.com/webhooks/event-notification-handlers). Snapshot events are routed here. The
callbacks of both get a client that is bound to the account of the event.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from typing import Any

import stripe
import structlog

from app.processing.handler_module import SNAPSHOT_FALLBACK, Callback, HandlerModule
from app.stripe_api.catalog import Kind, event_types, kind_of, load_classes, method_name
from app.stripe_api.client import read_only
from app.stripe_api.event_body import NOTIFICATION, snapshot_context

log = structlog.get_logger(__name__)

#: API versions of snapshot events that are logged. Each destination has one.
MAX_VERSIONS = 100

Wrap = Callable[[HandlerModule], Callback]


class Router:
    """The callbacks of one process by event type. All threads share it."""

    def __init__(
        self,
        client: stripe.StripeClient,
        modules: Sequence[HandlerModule],
        fallback: HandlerModule,
        snapshot_fallback: HandlerModule | None,
        wrap: Wrap,
    ) -> None:
        """Register all handler modules. An event reaches what ``wrap`` returns for its module.

        Imports the SDK's classes of each registered type, so that its first event is not slower.
        """
        self._client = client
        thin = [each for each in modules if each.kind is Kind.THIN]
        self._thin = _thin_handler(client, thin, fallback, wrap)
        self._shadow = _thin_handler(read_only(client), thin, fallback, wrap)
        self._shadow_types = {each.event_type for each in thin if each.policy.shadow}
        snapshot = [each for each in modules if each.kind is Kind.SNAPSHOT]
        self._snapshot = {each.event_type: wrap(each) for each in snapshot}
        self._snapshot_fallback = wrap(snapshot_fallback or _LOGGED)
        self._versions = _Versions()

    def route(self, event_type: str, body: bytes) -> None:
        """Call the callback of an event. Raises what it raises, and the SDK's errors of reading."""
        if kind_of(event_type) is Kind.THIN:
            is_shadow = event_type in self._shadow_types
            (self._shadow if is_shadow else self._thin).handle(body)
            return
        values = json.loads(body)
        if values.get("object") == NOTIFICATION:
            self._thin.handle(body)  # of a type that is spelled like one of a snapshot event
            return
        client = self._client.with_stripe_context(snapshot_context(values))
        event = client.construct_event_without_verification(body)
        self._versions.note(event_type, values.get("api_version"))
        self._snapshot.get(event_type, self._snapshot_fallback)(event, client)


def _thin_handler(
    client: stripe.StripeClient,
    modules: Sequence[HandlerModule],
    fallback_module: HandlerModule,
    wrap: Wrap,
) -> stripe.StripeEventNotificationHandlerWithoutVerification:
    """Return the SDK's handler, with a fallback that also calls the modules of unknown types."""
    known = event_types(Kind.THIN)
    untyped = {each.event_type: wrap(each) for each in modules if each.event_type not in known}
    fallback = wrap(fallback_module)

    def route(notif: Any, client: stripe.StripeClient, details: Any) -> None:
        callback = untyped.get(notif.type)
        if callback is None:
            fallback(notif, client, details)
        else:
            callback(notif, client)

    handler = client.notification_handler_without_verification(route)
    for module in modules:
        if module.event_type in known:
            getattr(handler, method_name(module.event_type))(wrap(module))
            load_classes(module.event_type)
    return handler


def _log_event(event: stripe.Event, _client: stripe.StripeClient) -> None:
    """Log a snapshot event without a handler module, as the shipped fallback does for thin ones."""
    log.warning("event_without_handler", known_to_sdk=str(event.type) in event_types(Kind.SNAPSHOT))


#: The fallback for snapshot events of a package without ``snapshot_fallback.py``.
_LOGGED = HandlerModule(SNAPSHOT_FALLBACK, __name__, "", _log_event)


class _Versions:
    """Logs each API version of snapshot events that is not the one of the SDK, once a process.

    The SDK's classes describe the objects of its own version
    (https://docs.stripe.com/webhooks/versioning).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen = {stripe.api_version, None}

    def note(self, event_type: str, version: str | None) -> None:
        with self._lock:
            if version in self._seen or len(self._seen) > MAX_VERSIONS:
                return
            self._seen.add(version)
        log.warning(
            "event_api_version_differs",
            event_type=event_type,
            api_version=version,
            sdk_api_version=stripe.api_version,
        )
