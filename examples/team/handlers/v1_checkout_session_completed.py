"""A customer completed a Checkout Session: ship the order."""

import structlog
from pydantic import BaseModel, PositiveInt, ValidationError
from stripe import StripeClient
from stripe.events import V1CheckoutSessionCompletedEventNotification

from app import GiveUp

log = structlog.get_logger(__name__)


class Order(BaseModel):
    """The metadata that the shop writes to each Checkout Session."""

    sku: str
    quantity: PositiveInt


def handle(notif: V1CheckoutSessionCompletedEventNotification, client: StripeClient) -> None:
    """Fetch the session in its current state, and log the order in its metadata."""
    session = notif.fetch_related_object()
    try:
        order = Order.model_validate(session.metadata.to_dict() if session.metadata else {})
    except ValidationError as error:
        wrong = ", ".join(str(each["loc"][0]) for each in error.errors())
        raise GiveUp(f"the metadata has no valid {wrong}") from None
    log.info("order_placed", session=session.id, **order.model_dump())
