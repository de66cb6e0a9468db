"""A customer completed a Checkout Session: fulfil what was bought."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from stripe import StripeClient
    from stripe.events import V1CheckoutSessionCompletedEventNotification

log = structlog.get_logger(__name__)


def handle(
    notif: V1CheckoutSessionCompletedEventNotification,
    client: StripeClient,
) -> None:
    """Fetch the session as it is now, and log what has to be fulfilled.

    ``payment_status`` decides, not the event: a delayed payment method completes a session
    before it is paid (https://docs.stripe.com/checkout/fulfillment).
    """
    session = notif.fetch_related_object()
    log.info(
        "checkout_completed",
        session=session.id,
        payment_status=session.payment_status,
        amount_total=session.amount_total,
        currency=session.currency,
    )
