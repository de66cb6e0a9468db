"""A network path to a server that can drop packets, as a firewall with a lost state does."""

from __future__ import annotations

import re
import socket
import threading
from contextlib import suppress
from typing import Any

import sqlalchemy as sa


def _error_response(text: bytes) -> bytes:
    """Return PostgreSQL's message ErrorResponse, as PgBouncer sends it."""
    reason = b"SFATAL\0C08P01\0M" + text + b"\0\0"
    return b"E" + (len(reason) + 4).to_bytes(4, "big") + reason


REFUSAL = _error_response(b"unsupported startup parameter: options")
LOSS = _error_response(b"server conn crashed?")


class Path:
    """A local port that forwards to the server of a URL.

    While it swallows, it still accepts connections and confirms data. The data arrives later.
    """

    def __init__(self, url: str, *, is_pooler: bool = False) -> None:
        """Take the ``url`` of a PostgreSQL.

        A pooler refuses startup options, and hides the process id of the server process. When it
        loses the server connection, it says so to the client.
        """
        self._is_pooler = is_pooler
        self._url = sa.make_url(url)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._is_asking = threading.Event()
        self._is_answering = threading.Event()
        self._is_losing = threading.Event()
        self.open()
        self._sockets: list[socket.socket] = []
        self.accepted = 0
        """The number of connections made so far."""
        self.ended = 0
        """The number of connections that the client has ended."""
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    @property
    def url(self) -> str:
        """The URL of the same database by way of this path."""
        port = self._listener.getsockname()[1]
        url = self._url.set(host="127.0.0.1", port=port).difference_update_query(["host"])
        return url.render_as_string(hide_password=False)

    def swallow(self) -> None:
        """Forward nothing, in either direction."""
        self._is_asking.clear()
        self._is_answering.clear()

    def swallow_answers(self) -> None:
        """Forward nothing from the server. It still receives and executes statements."""
        self._is_answering.clear()

    def lose_answer(self) -> None:
        """Lose the next answer, and end its connection. The server has run the statement."""
        self._is_losing.set()

    def open(self) -> None:
        """Forward everything again."""
        self._is_asking.set()
        self._is_answering.set()

    def close(self) -> None:
        """End all connections."""
        self.open()
        self._listener.shutdown(socket.SHUT_RDWR)  # ends a running accept(), which close() does not
        self._accepting.join()  # so that the list of sockets is complete
        for each in (self._listener, *self._sockets):
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:  # closed
                return
            far = self._reach()
            self._sockets += [near, far]
            self.accepted += 1
            for ends in ((near, far, self._is_asking), (far, near, self._is_answering)):
                threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    def _reach(self) -> socket.socket:
        query: dict[str, Any] = dict(self._url.query)
        folder, port = query.get("host"), self._url.port or 5432
        if folder is None:
            return socket.create_connection((self._url.host, port))
        far = socket.socket(socket.AF_UNIX)
        far.connect(f"{folder}/.s.PGSQL.{port}")
        return far

    def _pass_on(
        self, source: socket.socket, target: socket.socket, is_passing: threading.Event
    ) -> None:
        with suppress(OSError):  # the source has ended the connection with unread data
            while data := source.recv(65536):
                is_passing.wait()
                if source.family == socket.AF_UNIX and self._is_losing.is_set():
                    self._is_losing.clear()
                    break
                if self._is_pooler and b"\0options\0" in data:
                    source.sendall(REFUSAL)
                    break
                target.sendall(_hide_process(data) if self._is_pooler else data)
        with suppress(OSError):  # the target has ended the connection
            if self._is_pooler and source.family == socket.AF_UNIX:
                target.sendall(LOSS)
            target.shutdown(socket.SHUT_WR)
        if source.family == socket.AF_INET:
            self.ended += 1


def _hide_process(data: bytes) -> bytes:
    """Return ``data`` with another process id in PostgreSQL's message BackendKeyData."""
    return re.sub(rb"(?<=K\0\0\0\x0c)....", b"\0\0\0\7", data, flags=re.DOTALL)
