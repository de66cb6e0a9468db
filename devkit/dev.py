"""``make dev``: the service and a stand-in for Stripe's API, in one terminal, for writing handlers.

After each change in the handler package, the service is started again. The previous process serves
until the new one is ready. If the new one cannot start, its problems are printed, and the previous
process continues. The port stays open throughout.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import sys
import time
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from app.cli.dev_server import DevServer
from app.cli.hints import program
from app.errors import InboxUnavailable
from app.inbox import Inbox
from app.settings import Settings, environment
from app.stripe_api.catalog import type_of_module
from app.web.listen import local_url, open_port
from app.web.webhook import WEBHOOK_PATH
from devkit import placeholders
from devkit.dev_service import Service
from devkit.dev_state import announced
from devkit.http_server import HOST
from devkit.processes import END_SIGNALS
from devkit.stripe_api import StripeApi

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: Seconds between two checks for changed files.
POLL_SECONDS = 0.3
#: The number of latest events in which the stand-in searches for an object.
RECENT = 1000

#: The address of Stripe's own API.
STRIPE = "https://api.stripe.com"

#: The line of a handler module that names an event type that is newer than the SDK.
DECLARED_TYPE = re.compile(r"""^EVENT_TYPE\b[^=\n]*=\s*["']([^"'\n]+)""", re.MULTILINE)

LIVE_KEY = (
    "STRIPE_API_KEY is a live key, which a stand-in for Stripe's API must not get. Put a test"
    f" key into .env, or use Stripe's own API: make dev STRIPE_API_BASE={STRIPE}"
)

#: Time of change and size of each file.
Snapshot = dict[Path, tuple[int, int] | None]


class StopSignals:
    """Notes the signals that end the command.

    It raises nothing: a signal may interrupt a write, or the start of a process.
    """

    def __init__(self) -> None:
        """Handle all ``END_SIGNALS``."""
        self.received = False
        for number in END_SIGNALS:
            signal.signal(number, self._note)

    def _note(self, _number: int, _frame: object) -> None:
        self.received = True


def main() -> None:
    """Serve until a signal. Raises ``SystemExit`` with the reason if it cannot start.

    A live key must not reach a stand-in, so it needs Stripe's own API.
    """
    stop = StopSignals()
    settings = Settings.load()
    if settings.livemode and settings.stripe_api_base != STRIPE:
        sys.exit(LIVE_KEY)
    folder = package_folder(settings.handlers_package)
    with ExitStack() as stack:
        # Others on the network do not reach it, unless BIND_HOST says so.
        settings = replace(settings, bind_host=settings.bind_host or HOST)
        port = stack.enter_context(open_port(settings.bind_host, settings.port))
        port.listen(128)
        webhook = f"{local_url(settings)}{WEBHOOK_PATH}"
        base = settings.stripe_api_base
        if base is None:
            base = stack.enter_context(_stand_in(settings, webhook, folder))
        server = DevServer(None if base == STRIPE else base, webhook)
        problem = stack.enter_context(announced(server))
        service = Service(port, service_environment(base))
        stack.callback(service.end)
        _greet(settings, base, folder, problem)
        stack.callback(click.echo)  # a line end after ^C
        watch(service, folder, stop)


def service_environment(base: str) -> dict[str, str]:
    """Return the environment of a service that uses the API at ``base``, with a readable log."""
    return environment(
        STRIPE_API_BASE=base,
        LOG_FORMAT="console",
        FLASK_SKIP_DOTENV="1",
        WEB_CONCURRENCY="1",
        # Bytecode has times in whole seconds: a second change in the same second would be missed.
        PYTHONDONTWRITEBYTECODE="1",
    )


@contextmanager
def _stand_in(settings: Settings, webhook: str, folder: Path) -> Iterator[str]:
    """Serve a stand-in for Stripe's API until the end of the block, and yield its address.

    It has the events of the inbox, and a destination that sends the handled types to ``webhook``.
    """
    with closing(Inbox(settings.database_url, lease_seconds=1)) as inbox:
        api = StripeApi(lambda path: find(inbox, path))
        secret = settings.stripe_webhook_secrets[0]
        api.destinations.add(webhook, handled_types(folder), secret=secret, name="make dev")
        with api.serve():
            yield api.url


def handled_types(folder: Path) -> list[str]:
    """Return the event types of the handler modules in ``folder``, without importing them."""
    found = set()
    for path in folder.glob("[!_]*.py"):
        with suppress(OSError):  # the lock file of an editor, for example
            declared = DECLARED_TYPE.search(path.read_text(encoding="utf-8", errors="replace"))
            found.add(declared[1] if declared else type_of_module(path.stem))
    return sorted(filter(None, found))


def _greet(settings: Settings, base: str, folder: Path, problem: str | None) -> None:
    origin = "as STRIPE_API_BASE says" if settings.stripe_api_base else "a stand-in of this command"
    click.echo(f"Webhook       {local_url(settings)}{WEBHOOK_PATH}")
    click.echo(f"Stripe's API  {base}, {origin}")
    click.echo(f"Handlers      {folder}, reloaded after each change")
    if problem:
        click.echo(f"For commands in other terminals, set STRIPE_API_BASE={base}: {problem}.")
    click.echo(f"Send an event from another terminal: {program('flask')} events send TYPE\n")


def watch(service: Service, folder: Path, stop: StopSignals) -> None:
    """Start the service, and start it again after each change in ``folder``, until a signal."""
    seen = snapshot(folder)
    service.start()
    while not stop.received:
        now = snapshot(folder)
        if now != seen:
            names = sorted({path.name for path, _ in now.items() ^ seen.items()})
            click.echo(f"Changed: {', '.join(names)}")
            seen = now
            service.start()
        service.update()
        time.sleep(POLL_SECONDS)


def snapshot(folder: Path) -> Snapshot:
    """Return the state of all Python files below ``folder``, which may have been removed."""
    paths = (Path(parent, name) for parent, _, names in os.walk(folder) for name in names)
    return {path: _stamp(path) for path in paths if path.suffix == ".py"}


def _stamp(path: Path) -> tuple[int, int] | None:
    """Return the time of change and the size of a file, or None if it was just removed."""
    with suppress(FileNotFoundError):
        status = path.stat()
        return status.st_mtime_ns, status.st_size
    return None


def package_folder(package_name: str) -> Path:
    """Return the folder of the handler package, without importing the package."""
    spec = None
    with suppress(ImportError):
        spec = importlib.util.find_spec(package_name)
    if spec is None or not spec.submodule_search_locations:
        sys.exit(f"HANDLERS_PACKAGE={package_name} is not a package that can be found from here")
    return Path(spec.submodule_search_locations[0])


def find(inbox: Inbox, path: str) -> Mapping[str, Any] | None:
    """Return the answer of Stripe's API for ``path``: an event of the inbox, or its object.

    So a callback can fetch the objects of each delivered event. The values are placeholders.
    """
    try:
        events = inbox.administration.latest(RECENT)
    except InboxUnavailable:  # the service logs the reason
        return None
    for event in events:
        notification = json.loads(event.body)
        if path == f"/v2/core/events/{event.id}":
            return placeholders.event(notification)
        if path == (notification.get("related_object") or {}).get("url"):
            return placeholders.api_object(notification)
    return None


if __name__ == "__main__":
    main()
