"""A WSGI app on a local port, served by threads of this process."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from werkzeug.serving import WSGIRequestHandler, make_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from wsgiref.types import WSGIApplication

HOST = "127.0.0.1"


class SilentHandler(WSGIRequestHandler):
    """Handles a connection without a log line for each request."""

    def log(self, type: str, message: str, *args: object) -> None:  # noqa: A002 - named by werkzeug
        """Drop the line."""


@contextmanager
def serving(
    app: WSGIApplication,
    *,
    port: int = 0,
    descriptor: int | None = None,
    handler: type[WSGIRequestHandler] = SilentHandler,
) -> Iterator[int]:
    """Serve ``app`` until the end of the block, and yield its port.

    Port 0 selects a free port. With a ``descriptor`` of a listening socket, that socket is used
    and stays open.
    """
    server = make_server(HOST, port, app, threaded=True, request_handler=handler, fd=descriptor)
    thread = threading.Thread(target=server.serve_forever, args=[0.05], daemon=True)
    thread.start()
    try:
        yield server.port
    finally:
        server.shutdown()
        thread.join()
