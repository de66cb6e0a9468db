"""Fixtures for ``flask destination``, run against the stand-in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result

from devkit.stripe_api import StripeApi
from tests.conftest import Receiver

CUSTOMER, INVOICE = "v1.customer.created", "v1.invoice.paid"
NEWER = "v2.core.health.event_generation_failure.resolved"
URL = "https://your.host/webhook"
MODULE = "def handle(notif, client): pass\n"
MODULES = {
    "v1_customer_created": MODULE,
    "v1_invoice_paid": MODULE,
    "newer": f"EVENT_TYPE = {NEWER!r}\n{MODULE}",
}

Run = Callable[..., Result]


@pytest.fixture
def types() -> list[str]:
    """The handled types: two of the SDK, and one that is newer than the SDK."""
    return [CUSTOMER, INVOICE, NEWER]


@pytest.fixture
def ours(make_receiver: Callable[..., Receiver], stripe_api: StripeApi) -> Receiver:
    """An application with three handlers that uses the stand-in."""
    return make_receiver(MODULES, stripe_api_base=stripe_api.url)


@pytest.fixture
def run(ours: Receiver) -> Run:
    """A function that runs ``flask destination``. Its output never contains the key."""

    def call(*arguments: str, **more: Any) -> Result:
        result = ours.app.test_cli_runner().invoke(
            args=["destination", *arguments],
            **more,
        )
        for secret in (ours.services.settings.stripe_api_key, "whsec_fake_for_tests"):
            assert secret not in result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result

    return call
