"""Logs events of types without a module."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from stripe import StripeClient, UnhandledNotificationDetails
    from stripe.v2.core import EventNotification

log = structlog.get_logger(__name__)


def handle(
    notif: EventNotification,
    client: StripeClient,
    details: UnhandledNotificationDetails,
) -> None:
    """Log the type, and whether the installed SDK knows it.

    An unknown type is newer than the SDK. To handle it, upgrade the SDK, or write a module that
    declares it as ``EVENT_TYPE``.
    """
    log.warning("event_without_handler", known_to_sdk=details.is_known_event_type)
