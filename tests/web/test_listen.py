"""The address on which the service listens, and the one at which its machine reaches it."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from dataclasses import replace
from typing import NoReturn

import pytest

from app.errors import StartError
from app.settings import Settings
from app.web.listen import INHERITED, bind_addresses, check_ports, local_url


@pytest.mark.parametrize(
    ("host", "address", "url"),
    [
        ("", "0.0.0.0:4242", "http://127.0.0.1:4242"),
        ("0.0.0.0", "0.0.0.0:4242", "http://127.0.0.1:4242"),  # noqa: S104 - the value under test
        ("127.0.0.2", "127.0.0.2:4242", "http://127.0.0.2:4242"),
        ("::", "[::]:4242", "http://[::1]:4242"),
        ("2001:db8::1", "[2001:db8::1]:4242", "http://[2001:db8::1]:4242"),
        ("web.internal", "web.internal:4242", "http://web.internal:4242"),
    ],
)
def test_address_and_url(settings: Settings, host: str, address: str, url: str) -> None:
    """An IPv6 address is in brackets. "All addresses" is reached over the loopback."""
    settings = replace(settings, bind_host=host, port=4242)
    assert (bind_addresses(settings), local_url(settings)) == ([address], url)


def problem(host: str, port: int) -> str:
    """Return the problem with an address that cannot be opened."""
    with pytest.raises(StartError) as raised:
        check_ports([(host, port)])
    (found,) = raised.value.problems
    return found


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_port_in_use(host: str) -> None:
    """The message has the port, the reason, and what to do."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as other:
        port = other.getsockname()[1]
        found = problem(host, port)
    assert found.startswith(f"Port {port} cannot be opened: Address already in use. End the")
    assert "another `make run` or `make dev`" in found
    check_ports([(host, port)])


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "no-such-host.invalid"])
def test_address_of_another_machine(host: str) -> None:
    """An address that this machine does not have is BIND_HOST's mistake."""
    found = problem(host, 1)
    assert found.startswith(f"{host} is no address of this machine (")
    assert found.endswith("Correct BIND_HOST")


def test_port_that_needs_rights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the right to open a low port, the message names those that need none."""

    def bind(*_arguments: object) -> NoReturn:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    # Replaced, because tests can run as root. Root may open each port.
    monkeypatch.setattr(socket.socket, "bind", bind)
    assert problem("127.0.0.1", 80) == (
        "Port 80 cannot be opened: Permission denied. Choose a port of 1024 or higher in PORT"
    )


@pytest.mark.parametrize("name", sorted(INHERITED))
def test_inherited_socket_is_not_checked(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A socket of systemd, or of the gunicorn before, is in use by this process itself."""
    monkeypatch.setenv(name, "1")
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as own:
        check_ports([own.getsockname()])


def test_other_kinds_of_addresses_are_left_to_gunicorn() -> None:
    """A file descriptor or a Unix socket is no port."""
    check_ports([3, "/run/service.sock"])


def test_port_for_operators(settings: Settings) -> None:
    """OPS_PORT is a second address. The problem with it names that setting."""
    settings = replace(settings, bind_host="::1", port=4242, ops_port=4243)
    assert bind_addresses(settings) == ["[::1]:4242", "[::1]:4243"]
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(StartError, match="choose another port in OPS_PORT"):
            check_ports([("127.0.0.1", port)], ops_port=port)
