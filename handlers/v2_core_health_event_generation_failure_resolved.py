"""Stripe could not generate an event: it will never come, neither delivered nor listed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from stripe import StripeClient
    from stripe.events import UnknownEventNotification

#: Newer than the SDK, so that the notification comes without a class of its own.
EVENT_TYPE = "v2.core.health.event_generation_failure.resolved"

ADVICE = (
    "Stripe will neither deliver this event nor list it, and reconciliation cannot find it: fetch"
    " the object as it is now, and do what the callback for this event would have done"
)

log = structlog.get_logger(__name__)


def handle(notif: UnknownEventNotification, client: StripeClient) -> None:
    """Log which event can never come, about which object, and what to poll in its place.

    That stands in the event, which is fetched. The object is named by its address, and in older
    events by its id alone (https://docs.stripe.com/webhooks/handle-irrecoverable-events).
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
