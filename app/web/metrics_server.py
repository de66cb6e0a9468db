"""Serves the metrics of a process that has no other HTTP server."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, start_http_server

from app.web.listen import open_port

if TYPE_CHECKING:
    from app.metrics.exposition import Exposition

#: Other machines do not reach it, unless BIND_HOST says so.
HOST = "127.0.0.1"


def serve(exposition: Exposition, host: str, port: int) -> socket.socket:
    """Serve the metrics on this address, in threads. Returns the listening socket.

    Raises ``StartError`` if the port cannot be opened.
    """
    open_port(host, port, "--metrics-port").close()
    registry = CollectorRegistry()
    registry.register(exposition)
    server, _ = start_http_server(port, host, registry)
    return server.socket
