"""Commands beside a running ``make dev`` use its stand-in for Stripe's API.

``make dev`` writes its addresses to a state file, and locks the file while it runs. So the file of
a process that was killed is recognized as stale.
"""

from __future__ import annotations

import fcntl
import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from app.cli.output import say
from app.factory import make_client

if TYPE_CHECKING:
    import stripe

    from app.settings import Settings

#: The state file, in the folder where the commands and ``make dev`` are called.
STATE_FILE = Path("var/dev.json")


class DevServer(NamedTuple):
    """A running ``make dev``: its API, or None if that is Stripe's own, and its webhook's URL."""

    api: str | None
    webhook: str


def running() -> DevServer | None:
    """Return the ``make dev`` that runs in this folder, or None."""
    with suppress(OSError, ValueError, TypeError), STATE_FILE.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:  # it runs
            return DevServer(**json.load(file))
    return None


def with_its_api(settings: Settings) -> Settings:
    """Return ``settings`` with the API of a running ``make dev``.

    A live key never reaches a stand-in, and STRIPE_API_BASE takes precedence.
    """
    if settings.stripe_api_base or settings.livemode:
        return settings
    server = running()
    return replace(settings, stripe_api_base=server.api) if server else settings


def say_api(settings: Settings) -> None:
    """Print which API a command uses beside ``make dev``. Commands call this before a request."""
    server = running()
    if server is None or server.api is None:
        return
    if settings.stripe_api_base == server.api:
        say(f"Stripe's API is the one of `make dev`, {server.api}.", err=True)
    else:
        api = settings.stripe_api_base or "Stripe's own"
        say(f"Stripe's API is {api}, and not the one of `make dev`.", err=True)


def open_client(settings: Settings) -> stripe.StripeClient:
    """Return a client of Stripe's API for a command, and print which API it uses."""
    say_api(settings)
    return make_client(settings)
