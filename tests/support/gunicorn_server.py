"""The real gunicorn, with the real gunicorn.conf.py, serving a small application."""

from __future__ import annotations

import array
import contextlib
import fcntl
import http.client
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devkit import samples
from tests.support.tiny_app import SECRET
from tests.support.waiting import wait_for

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "gunicorn.conf.py"
DEADLINE = 60.0
"""Seconds after which a waiting test fails. No test needs as long."""

SLOW = {
    "no byte": b"",
    "half a header": b"POST /webhook HTTP/1.1\r\nHost: test\r\nStripe-Sig",
    "half a body": b'POST /webhook HTTP/1.1\r\nHost: test\r\nContent-Length: 600\r\n\r\n{"id": ',
}
"""Requests of slow clients."""


@dataclass(frozen=True)
class Response:
    """A response."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        """The parsed body."""
        return json.loads(self.body)


class Client:
    """One connection to a server, with access to the raw bytes."""

    def __init__(self, port: int, sent: bytes = b"") -> None:
        """Connect to ``port`` and send raw bytes."""
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)
        self.sock.sendall(sent)

    def send(self, data: bytes) -> None:
        """Send raw bytes."""
        self.sock.sendall(data)

    def response(self, method: str = "POST") -> Response:
        """Read one response to the end of its body."""
        response = http.client.HTTPResponse(self.sock, method=method)
        with contextlib.closing(response):
            response.begin()
            return Response(response.status, response.headers, response.read())

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Response:
        """Send a well-formed request and read the response.

        ``_`` in a header's name becomes ``-``.
        """
        lines = [f"{method} {path} HTTP/1.1", "Host: test", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.send("\r\n".join([*lines, "", ""]).encode() + body)
        return self.response(method)

    def rest(self) -> bytes:
        """Read until the server closes the connection."""
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while chunk := self.sock.recv(65536):
                received += chunk
        return received

    def is_readable(self) -> bool:
        """Return whether the server has closed the connection, or has sent anything."""
        return bool(select.select([self.sock], [], [], 0)[0])

    def unread(self) -> int:
        """Return the number of bytes that can be read now."""
        size = array.array("i", [0])
        fcntl.ioctl(self.sock, termios.FIONREAD, size)
        return size[0]

    def close(self) -> None:
        """Close the connection."""
        self.sock.close()


@dataclass(frozen=True)
class Server:
    """A running gunicorn."""

    process: subprocess.Popen[bytes]
    folder: Path
    port: int
    pool: ThreadPoolExecutor
    clients: contextlib.ExitStack

    @property
    def log(self) -> str:
        """The log so far."""
        return (self.folder / "log").read_text()

    @property
    def workers(self) -> list[int]:
        """The process ids of its workers."""
        pid = self.process.pid
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]

    def logged(self, event: str) -> list[dict[str, Any]]:
        """Return the fields of each line of the log with this ``event``."""
        lines = [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    def refusals(self) -> list[tuple[int | None, str]]:
        """Return the status and the reason of each refused request in the log."""
        lines = self.logged("request_refused")
        return [(line.get("status"), line["reason"]) for line in lines]

    def connect(self, sent: bytes = b"") -> Client:
        """Open a connection that lasts until the test or the server closes it."""
        client = Client(self.port, sent)
        self.clients.callback(client.close)
        return client

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Response:
        """Send a request on a connection of its own and read the response."""
        with contextlib.closing(Client(self.port)) as client:
            return client.ask(method, path, body, **headers)

    def pid(self) -> int:
        """Return the process id of the worker that answers."""
        return int(self.ask("GET", "/pid").body)

    def deliver(self) -> int:
        """Deliver a signed notification and return the status of the response."""
        body = b'{"id": "evt_1"}'
        signature = samples.sign(body, SECRET)
        return self.ask("POST", "/webhook", body, Stripe_Signature=signature).status

    def hold(self, name: str, how: str = "hold") -> Future[Response]:
        """Start a callback that runs until it is released."""
        response = self.pool.submit(self.ask, "POST", f"/{how}/{name}")
        self.wait_for_start(name)
        return response

    def wait_for_start(self, name: str) -> None:
        """Wait until a callback runs."""
        wait_for((self.folder / f"{name}.begun").exists, DEADLINE)

    def has_started(self, name: str) -> bool:
        """Return whether a callback has started."""
        return (self.folder / f"{name}.begun").exists()

    def release(self, name: str) -> None:
        """Let a callback end."""
        (self.folder / f"{name}.go").touch()

    def has_ended(self, name: str) -> bool:
        """Return whether a callback ran to its end."""
        return (self.folder / f"{name}.ended").exists()

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the exit status."""
        self.process.send_signal(how)
        return self.process.wait(DEADLINE)

    def refuses(self) -> bool:
        """Return whether connections are refused."""
        try:
            Client(self.port).close()
        except ConnectionError:
            return True
        return False


Serve = Callable[..., Server]


@contextlib.contextmanager
def running(
    folder: Path,
    *options: str,
    threads: int = 2,
    read_seconds: float = 60,
    max_body_bytes: int = 65536,
    config: Path = CONFIG,
    **settings: str,
) -> Iterator[Server]:
    """Run gunicorn with the small application, the real configuration and these ``options``.

    ``settings`` are environment variables.
    """
    command = [sys.executable, "-m", "gunicorn", "-c", str(config), "--bind", "127.0.0.1:0"]
    arguments = (str(folder), threads, read_seconds, max_body_bytes)
    command += [*options, f"tests.support.tiny_app:load{arguments}"]
    with started(command, folder, service_environment(folder) | settings) as server:
        yield server


@contextlib.contextmanager
def started(command: list[str], folder: Path, environment: dict[str, str]) -> Iterator[Server]:
    """Run a ``command`` that starts gunicorn, and log to ``folder``."""
    log = folder / "log"
    with ThreadPoolExecutor() as pool, contextlib.ExitStack() as clients, log.open("wb") as out:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=out)
        try:
            yield Server(process, folder, _port(process, log), pool, clients)
        finally:
            process.send_signal(signal.SIGQUIT)
            try:
                process.wait(DEADLINE)
            finally:
                process.kill()


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    found: list[str] = []

    def listens() -> bool:
        assert process.poll() is None, log.read_text()
        found.extend(re.findall(r"Listening at: http://127.0.0.1:(\d+)", log.read_text()))
        return bool(found)

    wait_for(listens, DEADLINE)
    return int(found[0])


def service_environment(folder: Path) -> dict[str, str]:
    """Return an environment with the settings that the real application needs."""
    return {
        **os.environ,
        "STRIPE_API_KEY": "sk_test_fake",
        "STRIPE_WEBHOOK_SECRET": SECRET,
        "DATABASE_URL": f"sqlite:///{folder}/inbox.sqlite3",
    }
