"""A billing meter rejected usage."""

from __future__ import annotations

from devkit.deliver import Deliver, Logged

TYPE = "v1.billing.meter.error_report_triggered"


def test_summary_of_the_event_is_logged(deliver: Deliver, logged: Logged) -> None:
    """The callback fetches the event and logs Stripe's summary with the id of the meter."""
    summary = {"developer_message_summary": "There is 1 invalid event"}

    delivery = deliver(TYPE, object_id="mtr_1", data=summary)

    assert (delivery.status, delivery.outcome) == (200, "handled")
    line = logged("meter_usage_rejected")
    assert (line["meter"], line["summary"]) == ("mtr_1", "There is 1 invalid event")
    assert (line["level"], line["event_id"]) == ("error", delivery.notification["id"])


def test_event_that_cannot_be_fetched_is_tried_again(deliver: Deliver) -> None:
    """After a failure of Stripe's API the event is pending, and the redelivery succeeds."""
    assert [each.outcome for each in deliver.retried(TYPE)] == ["failed", "handled"]
