"""A customer completed a Checkout Session."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from app.testing import samples
from app.testing.stripe_api import StripeApi
from tests.conftest import Receiver

TYPE = "v1.checkout.session.completed"


def test_session_is_fetched_as_it_is_now(
    shipped: Receiver, stripe_api: StripeApi, logged: Callable[[str], dict[str, Any]]
) -> None:
    """What has to be fulfilled is logged from the session, in the event's context."""
    notification = samples.notification(TYPE, object_id="cs_1", context="acct_1")
    stripe_api.put_related_object(
        notification, payment_status="paid", amount_total=1000, currency="eur"
    )

    assert shipped.deliver(notification).status_code == 200

    line = logged("checkout_completed")
    assert (line["session"], line["payment_status"]) == ("cs_1", "paid")
    assert (line["amount_total"], line["currency"]) == (1000, "eur")
    assert [asked.stripe_context for asked in stripe_api.asked] == ["acct_1"]


def test_session_that_cannot_be_fetched_is_tried_again(
    shipped: Receiver, stripe_api: StripeApi
) -> None:
    """Nobody may be left without what was paid because Stripe's API was away for a moment."""
    notification = samples.notification(TYPE)
    stripe_api.put_related_object(
        notification, payment_status="paid", amount_total=1000, currency="eur"
    )
    stripe_api.fail(status=404)

    assert shipped.deliver(notification).status_code == 500
    assert shipped.deliver(notification).status_code == 200
