"""The client that callbacks get: time-outs, retries, no telemetry."""

from __future__ import annotations

from dataclasses import replace

import pytest
import stripe

from app.settings import Settings
from app.stripe_client import MAX_NETWORK_RETRIES, TIMEOUT, build_client
from app.testing.stripe_api import StripeApi


def test_client_waits_for_seconds_not_for_minutes(settings: Settings) -> None:
    """The SDK's 80 seconds would hold a thread, and a delivery, far longer than Stripe waits."""
    client = build_client(settings)

    http = client._requestor._get_http_client()  # noqa: SLF001 - no getter
    assert http._timeout == TIMEOUT == (3, 8)  # type: ignore[attr-defined]  # noqa: SLF001 - no getter
    assert client._requestor._options.max_network_retries == MAX_NETWORK_RETRIES == 2  # noqa: SLF001 - no getter


def test_telemetry_is_off(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Telemetry writes to the home directory, and without one the first call would fail."""
    monkeypatch.setattr(stripe, "enable_telemetry", True)
    build_client(settings)
    assert stripe.enable_telemetry is False


def test_stand_in_is_asked_instead_of_stripe(settings: Settings, stripe_api: StripeApi) -> None:
    """STRIPE_API_BASE sends every call to a stand-in, and a failed one is repeated twice."""
    client = build_client(replace(settings, stripe_api_base=stripe_api.url))
    stripe_api.put("/v1/customers/cus_1", {"id": "cus_1", "object": "customer"})
    stripe_api.fail(status=500, times=2)

    assert client.v1.customers.retrieve("cus_1").id == "cus_1"
    assert [asked.path for asked in stripe_api.asked] == ["/v1/customers/cus_1"] * 3


def test_without_a_stand_in_stripe_itself_is_asked(settings: Settings) -> None:
    """No STRIPE_API_BASE: the SDK's own address."""
    client = build_client(settings)
    assert client._requestor._options.base_addresses["api"] == stripe.DEFAULT_API_BASE  # noqa: SLF001 - no getter
