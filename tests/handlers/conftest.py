"""What the tests of the shipped handlers share: the real service against the stand-in."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from app.testing.stripe_api import StripeApi
from tests.conftest import Receiver


@pytest.fixture
def shipped(make_receiver: Callable[..., Receiver], stripe_api: StripeApi) -> Receiver:
    """The service with the shipped handlers, asking the stand-in."""
    return make_receiver(handlers_package="handlers", stripe_api_base=stripe_api.url)
