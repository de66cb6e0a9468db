"""Stripe failed to generate an event, and will neither deliver nor list it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from stripe import StripeClient
    from stripe.events import UnknownEventNotification

#: Newer than the SDK, which has no class for this notification.
EVENT_TYPE = "v2.core.health.event_generation_failure.resolved"

ADVICE = (
    "Stripe will neither deliver nor list this event, and reconciliation cannot find it. Fetch the"
    " current object, and do what the callback of this event would have done"
)

log = structlog.get_logger(__name__)


def handle(notif: UnknownEventNotification, client: StripeClient) -> None:
    """Log the type of the lost event, its object, and the address to fetch instead.

    The event has these data, so it is fetched. Older events have the id of the object and no
    address (https://docs.stripe.com/webhooks/handle-irrecoverable-events).
    """
    data = notif.fetch_event().to_dict().get("data") or {}
    impact = data.get("impact") or {}
    related = impact.get("related_object") or {}
    lost = related.get("id") or impact.get("related_object_id")
    log.error(
        "event_can_never_come",
        lost_event_type=impact.get("event_type"),
        lost_object=lost,
        lost_context=impact.get("context"),
        poll=related.get("url") or lost,
        summary=data.get("summary"),
        advice=ADVICE,
    )
