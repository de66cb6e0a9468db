"""The service of the demo: gunicorn with handlers and an inbox of its own."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPException
from typing import TYPE_CHECKING

from app.inbox import Inbox
from devkit.demo.script import FAILING, SECRET
from devkit.http_server import HOST
from devkit.processes import ROOT, end

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from app.inbox import Event

#: Seconds that the service gets to be ready.
READY_SECONDS = 30.0

#: The modules of handlers/ in the package of the demo. It also has a module that fails at first.
SHIPPED = (
    "__init__.py",
    "_*.py",
    "fallback.py",
    "v1_billing_meter_error_report_triggered.py",
    "v1_checkout_session_completed.py",
    "v2_core_health_event_generation_failure_resolved.py",
)
PACKAGE = "demo_handlers"
FAILING_MODULE = '''"""Fetches an invoice, and fails when Stripe's API does not give it."""


def handle(notif, client):
    """Fetch the invoice."""
    notif.fetch_related_object()
'''


def write_handlers(folder: Path) -> None:
    """Write the handler package of the demo into ``folder``."""
    package = folder / PACKAGE
    package.mkdir()
    for pattern in SHIPPED:
        for path in (ROOT / "handlers").glob(pattern):
            shutil.copy(path, package)
    (package / f"{FAILING.replace('.', '_')}.py").write_text(FAILING_MODULE, encoding="utf-8")


@contextmanager
def service(folder: Path, api_url: str, patience: float = READY_SECONDS) -> Iterator[str]:
    """Run the real service on a free port, and yield the address of its /webhook.

    It writes only to ``folder``; its log is ``folder/log``. No setting of this machine reaches it,
    neither from the environment nor from ``.env``. It ends with the block. Raises ``SystemExit``
    with its log if it is not ready within ``patience`` seconds, or does not answer.
    """
    port = _free_port()
    command = [sys.executable, "-m", "gunicorn", "--bind", f"{HOST}:{port}"]
    with (folder / "log").open("wb") as log_file:
        process = subprocess.Popen(  # noqa: S603 - our own server
            [*command, "--config", str(ROOT / "gunicorn.conf.py")],
            cwd=folder,
            env=_environment(folder, api_url, port),
            stdout=log_file,
            stderr=log_file,
            start_new_session=True,  # Ctrl-C reaches the demo alone, which then ends the service
        )
    try:
        _wait_until_ready(process, port, patience)
        yield f"http://{HOST}:{port}/webhook"
    except OSError as error:
        written = (folder / "log").read_text(encoding="utf-8")
        sys.exit(f"The service does not answer: {error}. Its log:\n\n{written}")
    finally:
        end(process)


def _environment(folder: Path, api_url: str, port: int) -> dict[str, str]:
    return {
        "PYTHONPATH": str(ROOT),
        "STRIPE_API_KEY": "sk_test_demo_fake",
        "STRIPE_WEBHOOK_SECRET": SECRET,
        "STRIPE_API_BASE": api_url,
        "DATABASE_URL": _database_url(folder),
        "HANDLERS_PACKAGE": PACKAGE,
        "PORT": str(port),
        "LOG_FORMAT": "json",
    }


def _database_url(folder: Path) -> str:
    return f"sqlite:///{folder}/inbox.sqlite3"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, patience: float) -> None:
    deadline = time.monotonic() + patience
    while not _is_ready(port):
        if process.poll() is not None or time.monotonic() > deadline:
            raise TimeoutError(f"not ready after {patience:g} s, or ended")
        time.sleep(0.1)


def _is_ready(port: int) -> bool:
    with closing(HTTPConnection(HOST, port, timeout=READY_SECONDS)) as connection:
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200  # noqa: PLR2004 - HTTP's own number
        except (OSError, HTTPException):
            return False


def read_inbox(folder: Path) -> list[Event]:
    """Return the recorded events in order of arrival."""
    with closing(Inbox(_database_url(folder), lease_seconds=1)) as inbox:
        return inbox.administration.latest(100)[::-1]
