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

from app.cli.dev_server import INBOX, STRIPE, DevServer, inbox_address, with_own_inbox
from app.cli.hints import program
from app.errors import InboxUnavailable
from app.factory import make_inbox
from app.settings import Settings, environment
from app.stripe_api.catalog import type_of_module
from app.stripe_api.destinations import WEBHOOK_PATH
from app.web.listen import local_url, open_port
from devkit import placeholders
from devkit.dev_destinations import DevDestinations
from devkit.dev_service import Service
from devkit.dev_state import announced
from devkit.http_server import HOST
from devkit.processes import END_SIGNALS
from devkit.stripe_api import StripeApi

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from app.inbox import Inbox

#: Seconds between two checks for changed files.
POLL_SECONDS = 0.3
#: The number of latest events in which the stand-in searches for an object.
RECENT = 1000

#: The line of a handler module that names an event type that is newer than the SDK.
DECLARED_TYPE = re.compile(r"""^EVENT_TYPE\b[^=\n]*=\s*["']([^"'\n]+)""", re.MULTILINE)

LIVE_KEY = (
    "STRIPE_API_KEY is a live key, which a stand-in for Stripe's API must not get. Put a test"
    f" key into .env, or use Stripe's own API: make dev STRIPE_API_BASE={STRIPE}"
)

#: The variables of a service with an inbox of its own. An empty one hides that of ``.env``.
OWN_INBOX = {
    "DATABASE_URL": INBOX,
    "DATABASE_URL_FILE": "",
    "DATABASE_SCHEMA": "",
    "DATABASE_LISTEN_URL": "",
    "DATABASE_LISTEN_URL_FILE": "",
    "MIGRATE": "auto",
}

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
        base, destinations = settings.stripe_api_base, None
        if base is None:
            settings = with_own_inbox(settings)
            stand_in = _stand_in(settings, webhook, folder)
            base, destinations = stack.enter_context(stand_in)
        server = DevServer(None if base == STRIPE else base, webhook, inbox_address(settings))
        problem = stack.enter_context(announced(server))
        service = Service(port, service_environment(settings, base))
        stack.callback(service.end)
        _greet(settings, server, base, folder, problem)
        stack.callback(_say_end, server)
        watch(service, folder, stop, destinations)


def service_environment(settings: Settings, base: str) -> dict[str, str]:
    """Return the environment of a service that uses the API at ``base``, with a readable log."""
    return environment(
        **(OWN_INBOX if settings.database_url == INBOX else {}),
        STRIPE_API_BASE=base,
        LOG_FORMAT="console",
        FLASK_SKIP_DOTENV="1",
        WEB_CONCURRENCY="1",
        OPS_PORT="",  # the operations page is on the port of the deliveries
        # Bytecode has times in whole seconds: a second change in the same second would be missed.
        PYTHONDONTWRITEBYTECODE="1",
    )


@contextmanager
def _stand_in(
    settings: Settings, webhook: str, folder: Path
) -> Iterator[tuple[str, DevDestinations]]:
    """Serve a stand-in for Stripe's API until the end of the block. Yields its address.

    It has the events of the inbox, and destinations that send the handled types to ``webhook``.
    """
    with closing(make_inbox(settings)) as inbox:
        api = StripeApi(lambda path: find(inbox, path))
        secret = settings.stripe_webhook_secrets[0]
        destinations = DevDestinations(api, webhook, secret)
        destinations.enable(handled_types(folder))
        with api.serve():
            yield api.url, destinations


def handled_types(folder: Path) -> list[str]:
    """Return the event types of the handler modules in ``folder``, without importing them."""
    found = set()
    for path in folder.glob("[!_]*.py"):
        with suppress(OSError):  # the lock file of an editor, for example
            declared = DECLARED_TYPE.search(path.read_text(encoding="utf-8", errors="replace"))
            found.add(declared[1] if declared else type_of_module(path.stem))
    return sorted(filter(None, found))


def _greet(
    settings: Settings, server: DevServer, base: str, folder: Path, problem: str | None
) -> None:
    origin = "as STRIPE_API_BASE says" if settings.stripe_api_base else "a stand-in of this command"
    click.echo(f"Webhook       {server.webhook}")
    click.echo(f"Stripe's API  {base}, {origin}")
    click.echo(f"Inbox         {server.inbox}")
    click.echo(f"Handlers      {folder}, reloaded after each change")
    send = f"{program('flask')} events send TYPE"
    if problem:
        own = f" DATABASE_URL={INBOX}" if settings.database_url == INBOX else ""
        click.echo(f"For commands in other terminals, set STRIPE_API_BASE={base}{own}: {problem}.")
        send += f" --url {server.webhook}"
    click.echo(f"Send an event from another terminal: {send}\n")


def _say_end(server: DevServer) -> None:
    """Say where the events are: commands use the inbox of ``.env`` from now on."""
    click.echo()  # a line end after ^C
    if server.inbox == INBOX:
        see = f"DATABASE_URL={INBOX} {program('flask')} events list"
        click.echo(f"The events are kept in the inbox of `make dev`. To see them: {see}")


def watch(
    service: Service, folder: Path, stop: StopSignals, destinations: DevDestinations | None
) -> None:
    """Start the service, and start it again after each change in ``folder``, until a signal.

    The ``destinations`` of the stand-in enable the types that are handled after the change.
    """
    seen = snapshot(folder)
    service.start()
    while not stop.received:
        now = snapshot(folder)
        if now != seen:
            names = sorted({path.name for path, _ in now.items() ^ seen.items()})
            click.echo(f"Changed: {', '.join(names)}")
            seen = now
            if destinations:
                destinations.enable(handled_types(folder))
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
        if not event.erased_at and (answer := placeholders.answer(json.loads(event.body), path)):
            return answer
    return None


if __name__ == "__main__":
    main()
