"""The service of ``make dev``: a child process that is replaced after each change.

A new process starts beside the current one, on the same listening socket. When it answers a
request, the current process is ended. If it exits first, the current process continues. While there
is no service, this process answers each delivery 503, so that no client hangs.
"""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import click
from werkzeug import Request, Response

from devkit.http_server import HOST, serving
from devkit.processes import ROOT, end

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from _typeshed.wsgi import StartResponse, WSGIEnvironment

#: A process that starts for longer than this may be blocked: a message says so, in seconds.
SLOW_SECONDS = 10.0

#: What happens to deliveries after a failed start, with a current process and without one.
KEEPS = "The service keeps the previous handlers.\n"
WAITS = "The service starts as soon as you correct this. Until then, deliveries are answered 503.\n"
ENDED = (
    "The service has ended. It starts again after your next change. Until then, deliveries are"
    " answered 503."
)

#: The request that a new process answers when it serves.
_PROBE = f"GET /healthz HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode()

#: The answer while there is no service.
_UNAVAILABLE = {"error": "there is no service: `make dev` shows the problem in its terminal"}


class Process:
    """One process of the service. It has a second port, on which only this process answers."""

    def __init__(self, port: socket.socket, settings: Mapping[str, str]) -> None:
        """Start it on the listening ``port``, with ``settings`` as its environment."""
        self.started_at = time.monotonic()
        watched, self._lifeline = socket.socketpair()  # the process stops when this one is gone
        with socket.create_server((HOST, 0)) as own, watched:
            command = [sys.executable, "-m", "devkit.dev_child", str(watched.fileno())]
            command += ["--config", str(ROOT / "gunicorn.conf.py")]
            for each in (port, own):
                command += ["--bind", f"fd://{each.fileno()}"]
            self._popen = subprocess.Popen(  # noqa: S603 - our own server
                [*command, "--log-level", "warning"],
                env=settings,
                pass_fds=[each.fileno() for each in (port, own, watched)],
                start_new_session=True,  # Ctrl-C reaches the parent alone, which ends this process
            )
            self._probe = socket.create_connection(own.getsockname())
        self._probe.sendall(_PROBE)

    @property
    def status(self) -> int | None:
        """The exit status, or None while the process runs."""
        return self._popen.poll()

    def serves(self) -> bool:
        """Return true if the process has answered the probe."""
        answered, _, _ = select.select([self._probe], [], [], 0)
        with suppress(ConnectionError):  # it exited with the probe in its queue
            return bool(answered and self._probe.recv(1))
        return False

    def end(self) -> None:
        """End the process, if it is running."""
        self._probe.close()
        end(self._popen)
        self._lifeline.close()


class Service:
    """The current process of the service, and the one that is going to replace it."""

    def __init__(self, port: socket.socket, settings: Mapping[str, str]) -> None:
        """Take the listening ``port`` and the environment of the service. Starts nothing."""
        self._port = port
        self._settings = settings
        self._current: Process | None = None
        self._next: Process | None = None
        self._is_slow = False
        self._unavailable = ExitStack()
        """Closes the server that answers 503, if there is one."""

    def start(self) -> None:
        """Start a process with the current files. An earlier one that is not ready is ended."""
        self.update()
        if self._next:
            self._next.end()
        self._unavailable.close()
        self._is_slow = False
        self._next = Process(self._port, self._settings)

    def update(self) -> None:
        """Replace the current process if the next one is ready, and print what has changed."""
        if self._current and self._current.status is not None:
            self._current.end()
            self._current = None
            if not self._next:
                click.echo(ENDED)
                self._answer_unavailable()
        if self._next:
            self._update_next(self._next)

    def end(self) -> None:
        """End all processes."""
        self._unavailable.close()
        for process in filter(None, (self._next, self._current)):
            process.end()

    def _update_next(self, process: Process) -> None:
        if process.serves():
            self._replace_current(process)
        elif process.status is not None:
            process.end()
            self._next = None
            self._say_failed(f"The service did not start (exit status {process.status}).")
        elif not self._is_slow and time.monotonic() - process.started_at > SLOW_SECONDS:
            self._is_slow = True
            self._say_failed(
                f"The service is not ready after {SLOW_SECONDS:g} s: an import may be blocked."
            )

    def _replace_current(self, process: Process) -> None:
        self._unavailable.close()
        if self._current:
            self._current.end()
        click.echo("Reloaded." if self._current else "Ready.")
        self._current, self._next = process, None

    def _say_failed(self, problem: str) -> None:
        click.secho(problem, fg="red")
        click.echo(KEEPS if self._current else WAITS)
        if not self._current:
            self._answer_unavailable()

    def _answer_unavailable(self) -> None:
        """Answer all deliveries 503, until the next start."""
        self._unavailable.enter_context(
            serving(_answer_unavailable, descriptor=self._port.fileno())
        )


def _answer_unavailable(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    Request(environ).get_data()  # a connection with unread data would be reset
    headers = {"Retry-After": "1", "Connection": "close"}
    body = json.dumps(_UNAVAILABLE)
    response = Response(body, 503, headers, content_type="application/json")
    return response(environ, start_response)
