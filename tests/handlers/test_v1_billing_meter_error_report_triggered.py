"""A billing meter received usage that it could not use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from app.testing import samples
from app.testing.stripe_api import StripeApi
from tests.conftest import Receiver

TYPE = "v1.billing.meter.error_report_triggered"


def test_summary_of_the_event_is_logged(
    shipped: Receiver, stripe_api: StripeApi, logged: Callable[[str], dict[str, Any]]
) -> None:
    """The event is fetched, and Stripe's own summary logged with the meter's id."""
    notification = samples.notification(TYPE, object_id="mtr_1")
    data = {"developer_message_summary": "There is 1 invalid event"}
    stripe_api.put_event(samples.event(notification, data))

    assert shipped.deliver(notification).status_code == 200

    line = logged("meter_usage_rejected")
    assert (line["meter"], line["summary"]) == ("mtr_1", "There is 1 invalid event")
    assert (line["level"], line["event_id"]) == ("error", notification["id"])


def test_event_that_cannot_be_fetched_is_tried_again(
    shipped: Receiver, stripe_api: StripeApi
) -> None:
    """While Stripe's API fails the event stays pending, and the redelivery succeeds."""
    notification = samples.notification(TYPE)
    stripe_api.put_event(samples.event(notification, {"developer_message_summary": ""}))
    stripe_api.fail(status=429)

    assert shipped.deliver(notification).status_code == 500
    assert shipped.deliver(notification).status_code == 200
