"""What the tests of the shipped handlers share: the real service against the stand-in."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from app.testing.stripe_api import StripeApi
from tests.conftest import Receiver


@pytest.fixture
def shipped(make_receiver: Callable[..., Receiver], stripe_api: StripeApi) -> Receiver:
    """The service with the shipped handlers, asking the stand-in."""
    return make_receiver(handlers_package="handlers", stripe_api_base=stripe_api.url)


@pytest.fixture
def logged(capsys: pytest.CaptureFixture[str]) -> Callable[[str], dict[str, Any]]:
    """A function that returns the one line of a name that was logged."""

    def find(name: str) -> dict[str, Any]:
        lines: list[dict[str, Any]] = list(map(json.loads, capsys.readouterr().err.splitlines()))
        (line,) = [line for line in lines if line["event"] == name]
        return line

    return find
