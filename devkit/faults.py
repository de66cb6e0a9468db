"""Faults of the stand-in for Stripe's API: errors, delays, connections that break."""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from werkzeug import Request, Response


@dataclass(slots=True)
class Fault:
    """A fault of the next ``times`` requests for ``path``, or for any path with ``None``.

    ``strike`` returns the answer, or ``None`` for the usual answer.
    """

    path: str | None
    times: int
    strike: Callable[[Request], Response | None]

    def applies_to(self, path: str) -> bool:
        """Return true if the next request for ``path`` gets this fault."""
        return self.times > 0 and self.path in {None, path}


def wait_for(release: threading.Event) -> None:
    """Delay a request until ``release`` is set. It then gets the usual answer."""
    release.wait()


def reset_connection(request: Request) -> Response:
    """Close the connection so that the client sees a reset instead of a normal end."""
    connection: socket.socket = request.environ["werkzeug.socket"]
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(connection.detach())
    raise ConnectionResetError(f"{request.path} was to be reset")
