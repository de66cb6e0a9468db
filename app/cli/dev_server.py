"""Commands beside a running ``make dev`` use its inbox and its stand-in for Stripe's API.

They use both or neither. Events of the stand-in in the inbox of ``.env`` would advance its
watermark past events that Stripe lists. Events of Stripe would run with placeholders.

``make dev`` writes its addresses to a state file, and locks the file while it runs. So the file of
a process that was killed is recognized as stale.
"""

from __future__ import annotations

import fcntl
import json
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from app.cli.output import say
from app.factory import make_inbox

if TYPE_CHECKING:
    from app.settings import Settings

#: The state file, in the folder where the commands and ``make dev`` are called.
STATE_FILE = Path("var/dev.json")
#: The address of Stripe's own API.
STRIPE = "https://api.stripe.com"
#: The inbox of a ``make dev`` with its own stand-in, unless the shell names one in DATABASE_URL.
INBOX = "sqlite:///var/dev.sqlite3"


class DevServer(NamedTuple):
    """A running ``make dev``.

    It has its API, or None if that is Stripe's own, the URL of its webhook, and the URL of its
    inbox without a password.
    """

    api: str | None
    webhook: str
    inbox: str


def running() -> DevServer | None:
    """Return the ``make dev`` that runs in this folder, or None."""
    with suppress(OSError, ValueError, TypeError), STATE_FILE.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:  # it runs
            return DevServer(**json.load(file))
    return None


def with_own_inbox(settings: Settings) -> Settings:
    """Return ``settings`` with ``INBOX``, unless the shell names another one in DATABASE_URL."""
    if "DATABASE_URL" in settings.origin.environment:
        return settings
    return replace(
        settings,
        database_url=INBOX,
        database_schema=None,
        database_listen_url=None,
        migrate="auto",
    )


def inbox_address(settings: Settings) -> str:
    """Return the URL of the inbox without a password."""
    with closing(make_inbox(settings)) as inbox:
        return inbox.address


def beside(settings: Settings) -> Settings:
    """Return ``settings`` with the inbox and the API of a running ``make dev``.

    A live key never reaches a stand-in. STRIPE_API_BASE takes precedence, and so does DATABASE_URL
    of the shell: if it names another inbox, the command does not use the API of ``make dev``.
    """
    server = running()
    if server is None or settings.livemode or settings.stripe_api_base not in {None, server.api}:
        return settings
    found = with_own_inbox(settings) if server.inbox == INBOX else settings
    if inbox_address(found) != server.inbox:
        return settings
    return replace(found, stripe_api_base=server.api)


def say_target(settings: Settings) -> None:
    """Print on standard error which inbox and API a command uses beside ``make dev``."""
    server = running()
    if server is None or server.api is None:
        return
    inbox, api = inbox_address(settings), settings.stripe_api_base
    is_same = (inbox, api) == (server.inbox, server.api)
    begin = "Beside `make dev`" if is_same else "Not beside `make dev`"
    say(f"{begin}: the inbox is {inbox}, and Stripe's API is {api or 'its own'}.", err=True)
