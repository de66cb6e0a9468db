"""Ports for services whose address a test has to know before they start."""

from __future__ import annotations

import random
import socket
from contextlib import suppress

#: Below the ports that Linux and macOS give to outgoing connections. Another test that runs at the
#: same time cannot get one of these for a connection before the service listens.
PORTS = range(20_000, 32_000)

_random = random.SystemRandom()


def free_port() -> int:
    """Return a port on which no process listens."""
    while True:
        port = _random.choice(PORTS)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
