"""``make dev``: the service and a stand-in for Stripe's API, in one terminal, for writing handlers.

After each change in the handler package the handlers are checked in another process. If the service
can start with them, it is restarted. If not, the problems are printed, and the service continues
with the previous handlers. The port stays open during a restart: a delivery waits instead of being
refused.
"""

from __future__ import annotations

import importlib.util
import json
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from app.errors import InboxUnavailable
from app.inbox import Inbox
from app.settings import Settings, environment
from app.web.listen import local_url, open_port
from app.web.webhook import WEBHOOK_PATH
from devkit import placeholders
from devkit.processes import END_SIGNALS, ROOT, end, ignore_end_signals
from devkit.stripe_api import HOST, StripeApi

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Seconds between two checks for changed files.
POLL_SECONDS = 0.3
#: The number of latest events in which the stand-in searches for an object.
RECENT = 1000

#: Messages after the problems of the handlers, for a running service and for none.
KEEPS = "The service keeps the previous handlers.\n"
WAITS = "The service starts as soon as you correct this.\n"

#: Time of change and size of each file.
Snapshot = dict[Path, tuple[int, int] | None]


@dataclass
class Service:
    """The real service as a child process, restarted after each change of its handlers."""

    port: socket.socket
    settings: dict[str, str]
    """The environment of the child."""
    process: subprocess.Popen[bytes] | None = None

    def restart(self) -> bool:
        """Restart the service with the current handlers. Returns false if they have problems.

        After true, each delivery is handled by them.
        """
        problems = self.check()
        if problems:
            click.secho(problems, fg="red")
            click.echo(KEEPS if self.process else WAITS)
            return False
        self.end()
        number = self.port.fileno()
        command = [sys.executable, "-m", "gunicorn", "--config", str(ROOT / "gunicorn.conf.py")]
        self.process = subprocess.Popen(  # noqa: S603 - our own server
            [*command, "--bind", f"fd://{number}", "--log-level", "warning"],
            env=self.settings,
            pass_fds=[number],
            start_new_session=True,  # Ctrl-C reaches this process alone, which ends the service
        )
        return True

    def check(self) -> str:
        """Return the problems that prevent a start, or an empty text."""
        done = subprocess.run(
            [sys.executable, "-m", "flask", "--app", "app", "handlers", "list"],
            env=self.settings,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stderr.strip() if done.returncode else ""

    def notice_end(self) -> None:
        """Print a message if the service has ended by itself."""
        if self.process is not None and self.process.poll() is not None:
            click.echo("The service has ended. It starts again after your next change.")
            self.process = None

    def end(self) -> None:
        """End the service if it is running."""
        if self.process is not None:
            end(self.process)
            self.process = None


def main() -> None:
    """Serve until a signal. Raises ``SystemExit`` with the reason if it cannot start."""
    for number in END_SIGNALS:
        signal.signal(number, _leave)
    settings = Settings.load()
    folder = package_folder(settings.handlers_package)
    with ExitStack() as stack:
        # Others on the network do not reach it, unless BIND_HOST says so.
        settings = replace(settings, bind_host=settings.bind_host or HOST)
        port = stack.enter_context(open_port(settings.bind_host, settings.port))
        port.listen(128)
        base = settings.stripe_api_base
        if base is None:
            inbox = stack.enter_context(closing(Inbox(settings.database_url, lease_seconds=1)))
            api = StripeApi(lambda path: find(inbox, path))
            base = stack.enter_context(api.serve()).url
        service = Service(port, service_environment(base))
        stack.callback(service.end)
        _greet(settings, base, folder)
        stack.callback(click.echo)  # a line end after ^C
        watch(service, folder)


def service_environment(base: str) -> dict[str, str]:
    """Return the environment of a service that uses the API at ``base``, with a readable log."""
    return environment(
        STRIPE_API_BASE=base,
        LOG_FORMAT="console",
        FLASK_SKIP_DOTENV="1",
        WEB_CONCURRENCY="1",
        # A callback runs at once, without a worker.
        PROCESSING="inline",
        # Bytecode has times in whole seconds: a second change in the same second would be missed.
        PYTHONDONTWRITEBYTECODE="1",
    )


def _greet(settings: Settings, base: str, folder: Path) -> None:
    origin = "as STRIPE_API_BASE says" if settings.stripe_api_base else "a stand-in of this command"
    click.echo(f"Webhook       {local_url(settings)}{WEBHOOK_PATH}")
    click.echo(f"Stripe's API  {base}, {origin}")
    click.echo(f"Handlers      {folder}, reloaded after each change")
    click.echo("Send an event from another terminal: .venv/bin/flask events send TYPE\n")


def watch(service: Service, folder: Path) -> NoReturn:
    """Start the service, and restart it after each change in ``folder``."""
    seen: Snapshot | None = None
    while True:
        now = snapshot(folder)
        if now != seen:
            if seen is None:
                service.restart()
            else:
                names = sorted({path.name for path, _ in now.items() ^ seen.items()})
                click.echo(f"Changed: {', '.join(names)}")
                if service.restart():
                    click.echo("Reloaded.")
            seen = now
        service.notice_end()
        time.sleep(POLL_SECONDS)


def snapshot(folder: Path) -> Snapshot:
    """Return the state of all Python files below ``folder``."""
    return {path: _stamp(path) for path in folder.rglob("*.py")}


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


def _leave(_number: int, _frame: object) -> NoReturn:
    """Exit on a signal. ``SystemExit`` runs all clean-up on its way out of ``main``.

    This prints nothing: the signal may have interrupted a write to standard output.
    """
    ignore_end_signals()
    sys.exit(0)


if __name__ == "__main__":
    main()
