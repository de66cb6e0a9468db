"""The operations page, as a browser of a person on call sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from werkzeug.test import TestResponse

from app.web.ops import auth
from tests.conftest import Receiver

TOKEN = "0123456789abcdef-may-act-0123456789"
READ_TOKEN = "0123456789abcdef-may-look-0123456789"
SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin"}


@dataclass(frozen=True)
class Browser:
    """A browser with the credentials of a person."""

    receiver: Receiver
    name: str = "anna"
    token: str = TOKEN

    def get(self, path: str, **more: Any) -> TestResponse:
        """Load a page."""
        return self.receiver.client.get(path, auth=(self.name, self.token), **more)

    def reader(self) -> Browser:
        """Return the browser of a person who may look, on the same application."""
        return Browser(self.receiver, "ben", READ_TOKEN)

    def csrf_token(self) -> str:
        """Return the CSRF token of the forms on a page."""
        app = self.receiver.app
        with app.test_request_context("/ops", auth=(self.name, self.token)):
            auth.require_viewer()
            return auth.viewer().csrf_token

    def post(
        self, path: str, fields: dict[str, str] | None = None, *, follow: bool = False
    ) -> TestResponse:
        """Send a form of a page with these ``fields``."""
        return self.receiver.client.post(
            path,
            data={"csrf_token": self.csrf_token(), **(fields or {})},
            auth=(self.name, self.token),
            headers=SAME_ORIGIN,
            follow_redirects=follow,
        )


@pytest.fixture
def make_ops(make_receiver: Callable[..., Receiver]) -> Callable[..., Browser]:
    """A function that makes an application with the page, and the browser of a person."""

    def make(modules: dict[str, str] | None = None, **changes: Any) -> Browser:
        tokens = {"ops_token": TOKEN, "ops_read_token": READ_TOKEN}
        return Browser(make_receiver(modules, **{**tokens, **changes}))

    return make


@pytest.fixture
def ops(make_ops: Callable[..., Browser]) -> Browser:
    """The browser of a person who may act."""
    return make_ops()


@pytest.fixture
def reader(ops: Browser) -> Browser:
    """The browser of a person who may look, on the same application."""
    return ops.reader()
