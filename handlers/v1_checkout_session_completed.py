"""A customer completed a Checkout Session: fulfil the order."""

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
    """Fetch the current session, and log the order.

    Fulfil it only if ``payment_status`` says so: with a delayed payment method the session is
    completed before it is paid (https://docs.stripe.com/checkout/fulfillment).
    """
    session = notif.fetch_related_object()
    log.info(
        "checkout_completed",
        session=session.id,
        payment_status=session.payment_status,
        amount_total=session.amount_total,
        currency=session.currency,
    )
