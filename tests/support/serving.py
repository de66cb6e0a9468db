"""A WSGI app on a port of this machine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from werkzeug.serving import make_server


@contextmanager
def serving(app: Callable[..., object]) -> Iterator[str]:
    """Serve a WSGI app on this machine, and give the address of its /webhook."""
    server = make_server("127.0.0.1", 0, app, threaded=True)  # type: ignore[arg-type]  # any WSGI app
    thread = threading.Thread(target=server.serve_forever, args=[0.05])
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}/webhook"
    finally:
        server.shutdown()
        thread.join()
