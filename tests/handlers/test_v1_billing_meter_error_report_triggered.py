"""A billing meter received usage that it could not use."""

from __future__ import annotations

from devkit.deliver import Deliver, Logged

TYPE = "v1.billing.meter.error_report_triggered"


def test_summary_of_the_event_is_logged(deliver: Deliver, logged: Logged) -> None:
    """The event is fetched, and Stripe's own summary logged with the meter's id."""
    summary = {"developer_message_summary": "There is 1 invalid event"}

    delivery = deliver(TYPE, object_id="mtr_1", data=summary)

    assert (delivery.status, delivery.outcome) == (200, "handled")
    line = logged("meter_usage_rejected")
    assert (line["meter"], line["summary"]) == ("mtr_1", "There is 1 invalid event")
    assert (line["level"], line["event_id"]) == ("error", delivery.notification["id"])


def test_event_that_cannot_be_fetched_is_tried_again(deliver: Deliver) -> None:
    """While Stripe's API fails the event stays pending, and the redelivery succeeds."""
    assert [each.outcome for each in deliver.retried(TYPE)] == ["failed", "handled"]
