"""A billing meter received usage that it could not use."""

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
    """Log Stripe's own summary of what is wrong with the usage that was reported.

    The notification names the meter; what happened stands in the event, which is fetched
    (https://docs.stripe.com/webhooks/event-notification-handlers).
    """
    event = notif.fetch_event()
    log.error(
        "meter_usage_rejected",
        meter=notif.related_object.id,
        summary=event.data.developer_message_summary,
    )
