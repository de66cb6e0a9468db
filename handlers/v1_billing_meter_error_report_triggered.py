"""A billing meter rejected usage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from stripe import StripeClient
    from stripe.events import V1BillingMeterErrorReportTriggeredEventNotification

log = structlog.get_logger(__name__)


def handle(
    notif: V1BillingMeterErrorReportTriggeredEventNotification,
    client: StripeClient,
) -> None:
    """Log Stripe's summary of the errors in the reported usage.

    The notification has only the id of the meter. The event has the summary, so it is fetched
    (https://docs.stripe.com/webhooks/event-notification-handlers).
    """
    event = notif.fetch_event()
    log.error(
        "meter_usage_rejected",
        meter=notif.related_object.id,
        summary=event.data.developer_message_summary,
    )
