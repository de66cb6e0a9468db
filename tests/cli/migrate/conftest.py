"""Fixtures for ``flask migrate``, run against the stand-in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result

from devkit.deliver import Deliver, MakeDeliver

THIN_MODULE = "def handle(notif, client): pass\n"
SNAPSHOT_MODULE = "def handle(event, client): pass\n"
MODULES = {
    "customer_created": SNAPSHOT_MODULE,
    "v1_customer_created": THIN_MODULE,
    "invoice_paid": SNAPSHOT_MODULE,
    "customer_source_created": SNAPSHOT_MODULE,
    "v1_charge_failed": THIN_MODULE,
}

Run = Callable[..., Result]


@pytest.fixture
def deliver(make_deliver: MakeDeliver) -> Deliver:
    """``deliver`` for a service with one pair, and with single modules."""
    return make_deliver(modules=MODULES)


@pytest.fixture
def run(deliver: Deliver) -> Run:
    """A function that runs ``flask migrate``."""

    def call(*arguments: str, **more: Any) -> Result:
        runner = deliver.receiver.app.test_cli_runner()
        result = runner.invoke(args=["migrate", *arguments], **more)
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result

    return call
