"""A customer completed a Checkout Session."""

from __future__ import annotations

from devkit.deliver import Deliver, Logged
from devkit.stripe_api import StripeApi

TYPE = "v1.checkout.session.completed"


def test_session_is_fetched_as_it_is_now(
    deliver: Deliver, stripe_api: StripeApi, logged: Logged
) -> None:
    """The callback fetches the session in the context of the event, and logs the order."""
    fields = {"payment_status": "paid", "amount_total": 1000, "currency": "eur"}

    delivery = deliver(TYPE, object_id="cs_1", context="acct_1", fields=fields)

    assert (delivery.status, delivery.outcome) == (200, "handled")
    line = logged("checkout_completed")
    assert (line["session"], line["payment_status"]) == ("cs_1", "paid")
    assert (line["amount_total"], line["currency"]) == (1000, "eur")
    assert [asked.stripe_context for asked in stripe_api.asked] == ["acct_1"]


def test_session_that_cannot_be_fetched_is_tried_again(deliver: Deliver) -> None:
    """After a failure of Stripe's API the redelivery succeeds: the order is not lost."""
    outcomes = [each.outcome for each in deliver.retried(TYPE, status=404)]
    assert outcomes == ["failed", "handled"]
