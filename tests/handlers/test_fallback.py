"""The fallback handles every type without a module."""

from __future__ import annotations

import pytest

from devkit.deliver import Deliver, Logged


@pytest.mark.parametrize(
    ("event_type", "known"),
    [("v1.billing.meter.no_meter_found", True), ("v9.newer.than_the_sdk", False)],
)
def test_unhandled_type_is_logged(
    deliver: Deliver, logged: Logged, event_type: str, *, known: bool
) -> None:
    """The log has the type, and whether the SDK knows it."""
    delivery = deliver(event_type, unknown=not known)

    assert (delivery.status, delivery.outcome) == (200, "fallback")
    line = logged("event_without_handler")
    assert (line["event_type"], line["known_to_sdk"]) == (event_type, known)
    assert line["level"] == "warning"
