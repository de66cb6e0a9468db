"""Logs events of types without a module."""

import structlog
from stripe import StripeClient, UnhandledNotificationDetails
from stripe.v2.core import EventNotification

log = structlog.get_logger(__name__)


def handle(
    notif: EventNotification, client: StripeClient, details: UnhandledNotificationDetails
) -> None:
    """Log the type, and whether the installed SDK knows it."""
    log.warning("event_without_handler", known_to_sdk=details.is_known_event_type)
