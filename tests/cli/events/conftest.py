"""Fixtures for ``flask events``: the service has been started before, so the inbox exists."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from app.errors import InboxUnavailable
from tests.conftest import Receiver


@pytest.fixture
def make_receiver(make_receiver: Callable[..., Receiver]) -> Callable[..., Receiver]:
    """A function that makes an application, and creates its inbox as a start does."""

    def make(*modules: Any, **changes: Any) -> Receiver:
        receiver = make_receiver(*modules, **changes)
        with suppress(InboxUnavailable):
            receiver.services.inbox.migrate()
        return receiver

    return make
