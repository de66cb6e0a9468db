"""Stripe could not generate an event."""

from __future__ import annotations

from typing import Any

import pytest

from devkit.deliver import Deliver, Logged

TYPE = "v2.core.health.event_generation_failure.resolved"
LOST = "payment_intent.requires_action"
ADDRESS = "/v1/payment_intents/pi_1"

#: The data by the published schema of the event, and by the example in Stripe's documentation.
BY_ADDRESS = {
    "event_type": LOST,
    "context": "acct_1",
    "related_object": {"id": "pi_1", "type": "payment_intent", "url": ADDRESS},
}
BY_ID = {"event_type": LOST, "related_object_id": "pi_1"}


@pytest.mark.parametrize(
    ("data", "lost"),
    [
        ({"impact": BY_ADDRESS, "summary": "One is lost"}, (LOST, "acct_1", "pi_1", ADDRESS)),
        ({"impact": BY_ID}, (LOST, None, "pi_1", "pi_1")),
        ({}, (None, None, None, None)),
    ],
    ids=["address", "id", "nothing"],
)
def test_what_is_lost_is_logged_with_what_to_do(
    deliver: Deliver, logged: Logged, data: dict[str, Any], lost: tuple[str | None, ...]
) -> None:
    """The callback logs an error with the lost event and the object to fetch instead."""
    assert deliver(TYPE, data=data).outcome == "handled"

    line = logged("event_can_never_come")
    names = ("lost_event_type", "lost_context", "lost_object", "poll")
    assert tuple(line[name] for name in names) == lost
    assert (line["level"], line["summary"]) == ("error", data.get("summary"))
    assert "Fetch the current object" in line["advice"]


def test_event_that_cannot_be_fetched_is_tried_again(deliver: Deliver) -> None:
    """After a failure of Stripe's API the event is pending, and the redelivery succeeds."""
    assert [each.outcome for each in deliver.retried(TYPE, data={})] == ["failed", "handled"]
