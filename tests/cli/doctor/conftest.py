"""Fixtures for ``flask doctor``, run against the stand-in and a service on a real port."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
from click.testing import Result

from app.errors import InboxUnavailable
from app.stripe_api import client
from devkit.stripe_api import StripeApi
from tests.conftest import Receiver
from tests.support.serving import serving

TYPES = ["v1.customer.created", "v1.invoice.paid"]
MODULES = {
    "v1_customer_created": "def handle(notif, client): pass\n",
    "v1_invoice_paid": "def handle(notif, client): pass\n",
}


@dataclass(frozen=True)
class Examined:
    """The output of ``flask doctor`` as lines of level, subject and text."""

    result: Result
    lines: list[tuple[str, str, str]]

    @property
    def status(self) -> int:
        """The exit status."""
        return self.result.exit_code

    def about(self, what: str) -> list[tuple[str, str]]:
        """Return level and text, with the remedy, of each line about one subject."""
        return [(level, text) for level, name, text in self.lines if name == what]


def read(result: Result) -> Examined:
    """Parse an output. Asserts that the command ended normally and printed no secret."""
    assert result.exception is None or isinstance(result.exception, SystemExit)
    for secret in ("sk_test_fake_for_tests", "sk_live_fake_for_tests", "whsec_"):
        assert secret not in result.output
    *rows, empty, summary = result.stdout.splitlines()
    lines: list[tuple[str, str, str]] = []
    for row in rows:
        if row.startswith(" "):
            level, name, text = lines.pop()
            lines.append((level, name, f"{text} {row.strip()}"))
        else:
            level, name, text = row.split(maxsplit=2)
            lines.append((level, name, text))
    levels = [level for level, _, _ in lines]
    assert empty == ""
    assert summary == ", ".join(f"{levels.count(name)} {name}" for name in ("OK", "WARN", "FAIL"))
    return Examined(result, lines)


@pytest.fixture(autouse=True)
def _no_patience(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stripe is asked once, with a time-out of one second: the same code, shorter tests."""
    monkeypatch.setattr(client, "MAX_NETWORK_RETRIES", 0)
    if "time-out" in request.node.name:
        monkeypatch.setattr(client, "TIMEOUT", (1, 1))


@pytest.fixture
def make_ours(
    make_receiver: Callable[..., Receiver], stripe_api: StripeApi
) -> Callable[..., Receiver]:
    """A function that makes an application with two handlers that uses the stand-in.

    With ``started`` the SQLite file is in use, as after a start. Without, and with the mark
    ``no_tables``, there is none.
    """
    stripe_api.put("/v2/core/events", {"data": [], "next_page_url": None})

    def make(
        modules: dict[str, str] | None = None, *, started: bool = True, **changes: Any
    ) -> Receiver:
        modules = MODULES if modules is None else modules
        receiver = make_receiver(modules, stripe_api_base=stripe_api.url, **changes)
        if started and receiver.services.inbox.address.startswith("sqlite"):
            with suppress(InboxUnavailable):
                receiver.services.inbox.migrate()
        return receiver

    return make


@pytest.fixture
def ours(make_ours: Callable[..., Receiver]) -> Receiver:
    """The application with two handlers."""
    return make_ours()


@pytest.fixture
def url(ours: Receiver) -> Iterator[str]:
    """The URL of the application, which is served."""
    with serving(ours.app) as address:
        yield address


def examine(receiver: Receiver, *arguments: str) -> Examined:
    """Run ``flask doctor``."""
    runner = receiver.app.test_cli_runner()
    return read(runner.invoke(args=["doctor", *arguments]))
