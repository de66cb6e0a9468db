"""The address on which the service listens, and the address at which this machine reaches it."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING

from app.errors import StartError
from app.settings import environment

if TYPE_CHECKING:
    from app.settings import Settings

#: All IPv4 addresses of the machine. It is the default of ``BIND_HOST``.
ALL = "0.0.0.0"  # noqa: S104 - the service is there to be reached from outside

#: The addresses at which a process of this machine reaches a service that listens on all.
LOOPBACK = {ALL: "127.0.0.1", "::": "::1"}

#: The variables with which systemd, or an earlier gunicorn, passes on sockets that are open.
INHERITED = {"LISTEN_PID", "GUNICORN_FD"}


def bind_addresses(settings: Settings) -> list[str]:
    """Return the addresses as gunicorn takes them: ``0.0.0.0:4242``, ``[::]:4242``.

    The first one has ``PORT``. A second one has ``OPS_PORT``, if that is set.
    """
    host = _in_url(settings.bind_host or ALL)
    ports = (settings.port, settings.ops_port)
    return [f"{host}:{port}" for port in ports if port is not None]


def local_url(settings: Settings) -> str:
    """Return the URL at which a process of this machine reaches the service, without a path."""
    host = settings.bind_host or ALL
    return f"http://{_in_url(LOOPBACK.get(host, host))}:{settings.port}"


def open_port(host: str, port: int, setting: str = "PORT") -> socket.socket:
    """Return a socket that is bound to this address and does not listen yet.

    Raises ``StartError`` with a remedy if that is impossible. The ``setting`` names the port.
    """
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        problem = _problem(host, port, setting, error)
        raise StartError("The service cannot listen:", [problem]) from None
    return sock


def check_ports(addresses: Iterable[object], ops_port: int | None = None) -> None:
    """Raise ``StartError`` if one of gunicorn's ``addresses`` cannot be opened.

    gunicorn itself tries it for five seconds, and logs two lines each time. Sockets that are
    inherited are open already. ``ops_port`` is the value of ``OPS_PORT``.
    """
    if not INHERITED & environment().keys():
        for address in addresses:
            if isinstance(address, tuple):  # not a file descriptor or the path of a Unix socket
                host, port, *_ = address
                setting = "OPS_PORT" if port == ops_port else "PORT"
                open_port(host, port, setting).close()


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _problem(host: str, port: int, setting: str, error: OSError) -> str:
    """Return the reason why an address cannot be opened, and what to do."""
    if error.errno == errno.EADDRINUSE:
        problem = (
            f"Port {port} cannot be opened: {os.strerror(error.errno)}. End the process that"
            " listens there, perhaps another `make run` or `make dev`, or choose another port"
        )
        if setting == "PORT":
            return f"{problem}: make run PORT=4243, make dev PORT=4243"
        return f"{problem} in {setting}"
    if error.errno == errno.EACCES:
        return (
            f"Port {port} cannot be opened: {os.strerror(error.errno)}. Choose a port of 1024 or"
            f" higher in {setting}"
        )
    return f"{host} is no address of this machine ({error.strerror}). Correct BIND_HOST"
