"""The doctor, run against the stand-in and a service that really listens."""

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
    """What the doctor said: the lines by what they are about, and the exit status."""

    result: Result
    lines: list[tuple[str, str, str]]

    @property
    def status(self) -> int:
        """The exit status."""
        return self.result.exit_code

    def about(self, what: str) -> list[tuple[str, str]]:
        """Return level and text of each line about one thing, the remedy behind the text."""
        return [(level, text) for level, name, text in self.lines if name == what]


def read(result: Result) -> Examined:
    """Read the lines of an output, and see that it ended well and told no secret."""
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
    """Stripe is asked once, and a time-out comes after a second: the same code, less patience."""
    monkeypatch.setattr(client, "MAX_NETWORK_RETRIES", 0)
    if "time-out" in request.node.name:
        monkeypatch.setattr(client, "TIMEOUT", (1, 1))


@pytest.fixture
def make_ours(
    make_receiver: Callable[..., Receiver], stripe_api: StripeApi
) -> Callable[..., Receiver]:
    """A function that makes an application with two handlers, that asks the stand-in.

    Its file of SQLite's is there, as after a start.
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
    """Where the application takes deliveries: it is served."""
    with serving(ours.app) as address:
        yield address


def examine(receiver: Receiver, *arguments: str) -> Examined:
    """Let the doctor look."""
    runner = receiver.app.test_cli_runner()
    return read(runner.invoke(args=["doctor", *arguments]))
