"""One client's connection, with a bound on the time that it spends in each state.

gunicorn bounds only the wait for the second request of a connection. This module bounds the wait
for the first request and the reading of a response. ``framing`` bounds the framing of a body, and
``gunicorn_worker`` the number of connections.
"""

from __future__ import annotations

import asyncio
import contextlib
from http import HTTPStatus

from app.web import gunicorn_private
from app.web.framing import Parser

#: Seconds, and reads, in which a closing connection discards further bytes of its client. A socket
#: that is closed with unread bytes is reset, and the client can lose the response.
LINGER_SECONDS = 1.0
LINGER_READS = 256


class Connection(gunicorn_private.HttpProtocol):
    """One client's connection."""

    parser_class = Parser
    _linger: asyncio.TimerHandle | None = None
    _discarded = 0

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Give the client ``read_seconds`` for its first header."""
        super().connection_made(transport)
        # 0: writing pauses as soon as the kernel does not take all of a response.
        transport.set_write_buffer_limits(high=0)
        self.close_after(self.worker.asgi.read_seconds)
        self.worker.add_waiting(self)
        self.worker.make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self.worker.remove_waiting(self)
        if self._linger is not None:
            self._linger.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse ``data``, or discard it if no further request is served."""
        if not self.is_closed:
            super().data_received(data)
            return
        self._discarded += 1
        if self._discarded > LINGER_READS:
            self.transport.abort()

    def close(self) -> None:
        """Send the end of the stream. Close when the client closes, or after a second."""
        self.stop_serving()
        with contextlib.suppress(OSError, RuntimeError):  # the client has just disconnected
            self.transport.write_eof()
        loop: asyncio.AbstractEventLoop = self.worker.loop
        self._linger = loop.call_later(LINGER_SECONDS, self.transport.close)
        self.worker.add_waiting(self)

    def pause_writing(self) -> None:
        """Give the client ``read_seconds`` to read its response."""
        super().pause_writing()
        loop: asyncio.AbstractEventLoop = self.worker.loop
        self._stalled = loop.call_later(self.worker.asgi.read_seconds, self._drop_slow_reader)

    def _drop_slow_reader(self) -> None:
        self.worker.asgi.refusals.write("response_not_read")
        self.transport.abort()

    def resume_writing(self) -> None:
        """Continue: the client has read its response."""
        self._stalled.cancel()
        super().resume_writing()

    def request_complete(self) -> None:
        """Keep the connection until the request has its response."""
        self.worker.remove_waiting(self)
        super().request_complete()

    def idle(self) -> None:
        """Wait for the next request."""
        self.worker.add_waiting(self)
        super().idle()

    def expire(self) -> None:
        """Close the connection. Log it if a part of a header has arrived."""
        if self.parser.has_begun:
            self.worker.asgi.refusals.write("header_too_slow")
        super().expire()

    def refuse(
        self,
        status: int,
        message: str,
        extra_headers: tuple[tuple[str, str], ...],
        error: BaseException | None,
    ) -> None:
        """Answer a malformed request, and log it.

        gunicorn answers an unknown transfer coding with 501. It is the client's error: 400.
        """
        if status == HTTPStatus.NOT_IMPLEMENTED:
            status = HTTPStatus.BAD_REQUEST
        if status < HTTPStatus.INTERNAL_SERVER_ERROR:  # gunicorn logs an error of the service
            self.worker.asgi.refusals.write(gunicorn_private.reason_of(error), status=int(status))
        super().refuse(status, message, extra_headers, error)
