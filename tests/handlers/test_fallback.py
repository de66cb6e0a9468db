"""The fallback: every type that has no module of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from app.testing import samples
from tests.conftest import Receiver


@pytest.mark.parametrize(
    ("event_type", "known"),
    [("v1.billing.meter.no_meter_found", True), ("v9.newer.than_the_sdk", False)],
)
def test_unhandled_type_is_logged(
    shipped: Receiver, logged: Callable[[str], dict[str, Any]], event_type: str, *, known: bool
) -> None:
    """Its type is named, and whether an upgrade of the SDK would bring its class."""
    notification = {**samples.notification("v1.billing.meter.no_meter_found"), "type": event_type}

    answer = shipped.deliver(notification)

    assert (answer.status_code, answer.json) == (200, {"success": True, "outcome": "handled"})
    line = logged("event_without_handler")
    assert (line["event_type"], line["known_to_sdk"]) == (event_type, known)
    assert line["level"] == "warning"
