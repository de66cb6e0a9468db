"""Stripe could not generate an event."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from app.testing import samples
from app.testing.stripe_api import StripeApi
from tests.conftest import Receiver

TYPE = "v2.core.health.event_generation_failure.resolved"

#: As Stripe's documentation shows it, and as its published shape is.
BY_ID = {"event_type": "payment_intent.requires_action", "related_object_id": "pi_1"}
BY_ADDRESS = {
    "event_type": "payment_intent.requires_action",
    "context": "acct_1",
    "related_object": {
        "id": "pi_1",
        "type": "payment_intent",
        "url": "/v1/payment_intents/pi_1",
    },
}


@pytest.mark.parametrize(
    ("data", "lost"),
    [
        (
            {"impact": BY_ADDRESS, "summary": "An event is missing"},
            (*BY_ADDRESS.values(), "/v1/payment_intents/pi_1", "An event is missing"),
        ),
        ({"impact": BY_ID}, (BY_ID["event_type"], None, {"id": "pi_1"}, "pi_1", None)),
        (None, (None, None, {"id": None}, None, None)),
    ],
    ids=["address", "id", "nothing"],
)
def test_what_is_lost_is_logged_with_what_to_do(
    shipped: Receiver,
    stripe_api: StripeApi,
    logged: Callable[[str], dict[str, Any]],
    data: dict[str, Any] | None,
    lost: tuple[Any, ...],
) -> None:
    """The event is fetched, and an error says which event can never come and what to poll."""
    notification = samples.notification(TYPE, unknown=True)
    stripe_api.put_event(samples.event(notification, data))

    assert shipped.deliver(notification).status_code == 200

    line = logged("event_can_never_come")
    names = ("lost_event_type", "lost_context", "lost_object", "poll", "summary")
    event_type, context, related, poll, summary = lost
    assert tuple(line[name] for name in names) == (
        event_type,
        context,
        related["id"],
        poll,
        summary,
    )
    assert line["level"] == "error"
    assert "fetch the object as it is now" in line["advice"]


def test_event_that_cannot_be_fetched_is_tried_again(
    shipped: Receiver, stripe_api: StripeApi
) -> None:
    """While Stripe's API fails the event stays pending, and the redelivery succeeds."""
    notification = samples.notification(TYPE, unknown=True)
    stripe_api.put_event(samples.event(notification, {}))
    stripe_api.fail(status=429)

    assert shipped.deliver(notification).status_code == 500
    assert shipped.deliver(notification).status_code == 200
