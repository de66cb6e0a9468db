"""``make dev``: the service and a stand-in for Stripe's API, in one terminal, for writing handlers.

After each change in the handler package, the service is started again. The previous process serves
until the new one is ready. If the new one cannot start, its problems are printed, and the previous
process continues. The port stays open throughout.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import sys
import time
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from app.errors import InboxUnavailable
from app.inbox import Inbox
from app.settings import Settings, environment
from app.web.webhook import WEBHOOK_PATH
from devkit import placeholders
from devkit.dev_service import Service
from devkit.http_server import HOST
from devkit.processes import END_SIGNALS
from devkit.stripe_api import StripeApi

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Seconds between two checks for changed files.
POLL_SECONDS = 0.3
#: The number of latest events in which the stand-in searches for an object.
RECENT = 1000

#: Time of change and size of each file.
Snapshot = dict[Path, tuple[int, int] | None]


class Leave:
    """Notes a signal that ends the command.

    It raises nothing: the signal may interrupt a write, or the start of a process.
    """

    def __init__(self) -> None:
        """Handle all ``END_SIGNALS``."""
        self.requested = False
        for number in END_SIGNALS:
            signal.signal(number, self._request)

    def _request(self, _number: int, _frame: object) -> None:
        self.requested = True


def main() -> None:
    """Serve until a signal. Raises ``SystemExit`` with the reason if it cannot start."""
    leave = Leave()
    settings = Settings.load()
    folder = package_folder(settings.handlers_package)
    with ExitStack() as stack:
        port = stack.enter_context(_listen(settings.port))
        base = settings.stripe_api_base
        if base is None:
            inbox = stack.enter_context(closing(Inbox(settings.database_url, lease_seconds=1)))
            api = StripeApi(lambda path: find(inbox, path))
            base = stack.enter_context(api.serve()).url
        service = Service(port, service_environment(base))
        stack.callback(service.end)
        _greet(settings, base, folder)
        stack.callback(click.echo)  # a line end after ^C
        watch(service, folder, leave)


def service_environment(base: str) -> dict[str, str]:
    """Return the environment of a service that uses the API at ``base``, with a readable log."""
    return environment(
        STRIPE_API_BASE=base,
        LOG_FORMAT="console",
        WEB_CONCURRENCY="1",
        # Bytecode has times in whole seconds: a second change in the same second would be missed.
        PYTHONDONTWRITEBYTECODE="1",
    )


def _greet(settings: Settings, base: str, folder: Path) -> None:
    origin = "as STRIPE_API_BASE says" if settings.stripe_api_base else "a stand-in of this command"
    click.echo(f"Webhook       http://{HOST}:{settings.port}{WEBHOOK_PATH}")
    click.echo(f"Stripe's API  {base}, {origin}")
    click.echo(f"Handlers      {folder}, reloaded after each change")
    click.echo("Send an event from another terminal: .venv/bin/flask events send TYPE\n")


def watch(service: Service, folder: Path, leave: Leave) -> None:
    """Start the service, and start it again after each change in ``folder``, until a signal."""
    seen = snapshot(folder)
    service.start()
    while not leave.requested:
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


def _listen(port: int) -> socket.socket:
    """Open the port. It stays open while the service restarts."""
    try:
        return socket.create_server((HOST, port), backlog=128)
    except OSError as error:
        sys.exit(
            f"Port {port} cannot be opened: {os.strerror(error.errno or 0)}. End the process that"
            " listens there, perhaps `make run`, or choose another port: make dev PORT=4243"
        )


if __name__ == "__main__":
    main()
