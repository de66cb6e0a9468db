"""``make dev``: the service and a stand-in for Stripe's API, in one terminal, for writing handlers.

A change in the handler package is taken over at once: it is checked in a process of its own, and
only if the service could start with it, the service is started anew. While it could not, what is
wrong is said, and the service goes on with what it had. The port stays open meanwhile, so that a
delivery waits for the service instead of being refused.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from app.errors import InboxUnavailable
from app.inbox import Inbox
from app.settings import Settings, environment
from devkit import placeholders
from devkit.demo import ROOT, end
from devkit.stripe_api import HOST, StripeApi

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Seconds between two looks at the files.
LOOK_SECONDS = 0.3
#: How many of the newest events the stand-in looks at for an object that it is asked for.
RECENT = 1000

#: What to say of handlers that the service could not start with.
GOES_ON = "The service goes on with the handlers as they were before.\n"
WAITS = "The service starts as soon as this is mended.\n"

#: Time of change and size of each file.
Snapshot = dict[Path, tuple[int, int] | None]


@dataclass
class Service:
    """The real service as a child, started anew whenever its handlers change."""

    port: socket.socket
    settings: dict[str, str]
    """The environment of the child."""
    process: subprocess.Popen[bytes] | None = None

    def take_over(self) -> bool:
        """Start the service with the handlers as they are now, unless they are broken.

        Returns whether that was done: from then on each delivery meets these handlers.
        """
        problems = self.check()
        if problems:
            click.secho(problems, fg="red")
            click.echo(GOES_ON if self.process else WAITS)
            return False
        self.end()
        number = self.port.fileno()
        command = [sys.executable, "-m", "gunicorn", "--config", str(ROOT / "gunicorn.conf.py")]
        self.process = subprocess.Popen(  # noqa: S603 - our own server
            [*command, "--bind", f"fd://{number}", "--log-level", "warning"],
            env=self.settings,
            pass_fds=[number],
            start_new_session=True,  # so that Ctrl-C reaches it through us, in good order
        )
        return True

    def check(self) -> str:
        """Return what keeps the service from starting, or nothing."""
        done = subprocess.run(
            [sys.executable, "-m", "flask", "--app", "app", "handlers", "list"],
            env=self.settings,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stderr.strip() if done.returncode else ""

    def notice_end(self) -> None:
        """Say so if the service ended by itself."""
        if self.process is not None and self.process.poll() is not None:
            click.echo("The service has ended. It starts again with the next change of a handler.")
            self.process = None

    def end(self) -> None:
        """End the service, if it runs."""
        if self.process is not None:
            end(self.process)
            self.process = None


def main() -> None:
    """Serve until a signal comes. Raises ``SystemExit`` with what keeps it from starting."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
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
        watch(service, folder)


def service_environment(base: str) -> dict[str, str]:
    """Return the environment of a service that asks ``base``, and whose log is easy to read."""
    return environment(
        STRIPE_API_BASE=base,
        LOG_FORMAT="console",
        WEB_CONCURRENCY="1",
        # What a callback does is to be seen at once, without a worker beside the service.
        PROCESSING="inline",
        # Its times are whole seconds: a file that is saved twice in one would stay stale.
        PYTHONDONTWRITEBYTECODE="1",
    )


def _greet(settings: Settings, base: str, folder: Path) -> None:
    whose = "as STRIPE_API_BASE says" if settings.stripe_api_base else "a stand-in of this command"
    click.echo(f"Webhook       http://{HOST}:{settings.port}/webhook")
    click.echo(f"Stripe's API  {base}, {whose}")
    click.echo(f"Handlers      {folder}, each change is taken over")
    click.echo("Send an event from another terminal: .venv/bin/flask events send TYPE\n")


def watch(service: Service, folder: Path) -> NoReturn:
    """Start the service, and again after each change in ``folder``."""
    seen: Snapshot | None = None
    while True:
        now = snapshot(folder)
        if now != seen:
            if seen is None:
                service.take_over()
            else:
                names = sorted({path.name for path, _ in now.items() ^ seen.items()})
                click.echo(f"Changed: {', '.join(names)}")
                if service.take_over():
                    click.echo("Taken over.")
            seen = now
        service.notice_end()
        time.sleep(LOOK_SECONDS)


def snapshot(folder: Path) -> Snapshot:
    """Return the state of the Python files in ``folder`` and below."""
    return {path: _stamp(path) for path in folder.rglob("*.py")}


def _stamp(path: Path) -> tuple[int, int] | None:
    """Return when a file was changed and how long it is; nothing if it has just gone."""
    with suppress(FileNotFoundError):
        status = path.stat()
        return status.st_mtime_ns, status.st_size
    return None


def package_folder(package_name: str) -> Path:
    """Return where the handler package is, without importing it."""
    spec = None
    with suppress(ImportError):
        spec = importlib.util.find_spec(package_name)
    if spec is None or not spec.submodule_search_locations:
        sys.exit(f"HANDLERS_PACKAGE={package_name} is no package that can be found from here")
    return Path(spec.submodule_search_locations[0])


def find(inbox: Inbox, path: str) -> Mapping[str, Any] | None:
    """Return what Stripe's API would answer for ``path``: an event of the inbox, or its object.

    So a callback finds what it asks for, whoever sent the event. The values are place holders.
    """
    try:
        events = inbox.administration.latest(RECENT)
    except InboxUnavailable:  # the service says why
        return None
    for event in events:
        notification = json.loads(event.body)
        if path == f"/v2/core/events/{event.id}":
            return placeholders.event(notification)
        if path == (notification.get("related_object") or {}).get("url"):
            return placeholders.api_object(notification)
    return None


def _listen(port: int) -> socket.socket:
    """Open the port, which stays open while the service is started anew."""
    try:
        return socket.create_server((HOST, port), backlog=128)
    except OSError as error:
        sys.exit(
            f"Port {port} cannot be opened: {os.strerror(error.errno or 0)}. End what listens"
            " there, perhaps `make run`, or choose another one: make dev PORT=4243"
        )


def _leave(_number: int, _frame: object) -> NoReturn:
    """End because of a signal, by way of everything that has to be cleaned up."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    click.echo()
    sys.exit(0)


if __name__ == "__main__":
    main()
