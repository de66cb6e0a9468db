"""The only module that uses names of gunicorn which gunicorn does not document.

gunicorn documents no class of its asgi worker, and any release may rename a method. Each such name
stands in this module alone. gunicorn calls the methods with an underscore. They call the method
that is defined after them, which a subclass may override.
``tests/web/test_gunicorn_private.py`` lists all names and their signatures.
"""

from __future__ import annotations

import asyncio
import queue
import sys
from typing import Any

from gunicorn.asgi.parser import ParseError, PythonProtocol
from gunicorn.asgi.protocol import ASGIProtocol
from gunicorn.workers.gasgi import ASGIWorker

from app.text import type_name

__all__ = [
    "HttpParser",
    "HttpProtocol",
    "LoopWorker",
    "ParseError",
    "queued_signals",
    "reason_of",
    "workers",
]

#: The reasons in the log for gunicorn's errors, by their names. Their texts quote the request.
REASONS = {
    "ChunkMissingTerminator": "invalid_chunk",
    "InvalidChunkExtension": "invalid_chunk",
    "InvalidChunkSize": "invalid_chunk",
    "InvalidHTTPVersion": "invalid_http_version",
    "InvalidHeader": "invalid_header",
    "InvalidHeaderName": "invalid_header",
    "InvalidRequestLine": "invalid_request_line",
    "InvalidRequestMethod": "invalid_request_line",
    "LimitRequestHeaders": "header_too_large",
    "LimitRequestLine": "request_line_too_long",
    "TooMuchFramingError": "too_much_framing",
    "UnsupportedTransferCoding": "unknown_transfer_coding",
}


def reason_of(error: BaseException | None) -> str:
    """Return the reason for the log why gunicorn refuses a request with this error."""
    return REASONS.get(type_name(error), "malformed")


class HttpParser(PythonProtocol):  # type: ignore[misc] # gunicorn publishes no types
    """gunicorn's parser of HTTP/1 in Python. ``feed`` raises ``ParseError``."""

    __slots__ = ()

    @property
    def buffered(self) -> int:
        """Bytes that were fed and are not parsed yet."""
        return len(self._buffer)

    @property
    def pipelined(self) -> int:
        """Bytes of the next request, which wait until the response to this one is sent."""
        return self.buffered if self.is_complete else 0

    def _find_line(self, limit: int, error: Exception) -> int:
        end: int = super()._find_line(limit, error)
        if end >= 0:
            self.line_found(end)
        return end

    def line_found(self, length: int) -> None:
        """Handle a line of ``length`` bytes that is about to be parsed. May raise."""


class HttpProtocol(ASGIProtocol):  # type: ignore[misc] # gunicorn publishes no types
    """gunicorn's handler of one client's connection, for HTTP/1 alone."""

    parser_class: type[HttpParser] = HttpParser
    worker: Any
    transport: asyncio.Transport
    _closed: bool

    @property
    def parser(self) -> HttpParser:
        """The parser of the connection."""
        parser: HttpParser = self._callback_parser
        return parser

    @property
    def is_closed(self) -> bool:
        """True when no further request is read from this connection."""
        return self._closed

    def close_after(self, seconds: float) -> None:
        """Close the connection unless the next request arrives within ``seconds``."""
        self._keepalive_handle = self.worker.loop.call_later(seconds, self._keepalive_timeout)

    def stop_serving(self) -> None:
        """Read no further request. ``data_received`` still gets the bytes of the client."""
        self._closed = True
        self._resume_reading()

    def _keepalive_timeout(self) -> None:
        self.expire()

    def expire(self) -> None:
        """Close the connection: no complete header arrived in time."""
        super()._keepalive_timeout()

    def _setup_callback_parser(self) -> None:
        # gunicorn would take its C parser where it is installed. With it, memory grew without a
        # bound when clients closed their connection after each request.
        self._callback_parser = self.parser_class(
            on_headers_complete=self._on_headers_complete,
            on_body=self._on_body,
            on_message_complete=self._on_message_complete,
            limit_request_line=self.cfg.limit_request_line,
            limit_request_fields=self.cfg.limit_request_fields,
            limit_request_field_size=self.cfg.limit_request_field_size,
        )

    def _http1_buffered(self) -> int:
        # gunicorn adds the pipelined bytes only if the parser is exactly its own class.
        held: int = super()._http1_buffered()
        return held + self._callback_parser.pipelined

    def _is_websocket_upgrade(self, _request: object) -> bool:
        return False

    def _on_message_complete(self) -> None:
        self.request_complete()

    def request_complete(self) -> None:
        """Handle the end of a request's body."""
        super()._on_message_complete()

    def _arm_keepalive_timer(self) -> None:
        self.idle()

    def idle(self) -> None:
        """Wait for the next request, for ``keepalive`` seconds."""
        super()._arm_keepalive_timer()

    def _send_error_response(
        self, status: int, message: str, extra_headers: tuple[tuple[str, str], ...] = ()
    ) -> None:
        # gunicorn calls this while it handles the error.
        self.refuse(status, message, extra_headers, sys.exception())

    def refuse(
        self,
        status: int,
        message: str,
        extra_headers: tuple[tuple[str, str], ...],
        error: BaseException | None,  # noqa: ARG002 - a subclass logs it
    ) -> None:
        """Send the response to a request that cannot be parsed because of ``error``."""
        super()._send_error_response(status, message, extra_headers)

    def _close_transport(self) -> None:
        if not self._closed:
            self.close()

    def close(self) -> None:
        """Close the connection. It is called once, and has to be overridden."""


class LoopWorker(ASGIWorker):  # type: ignore[misc] # gunicorn publishes no types
    """gunicorn's worker process with an event loop."""

    @property
    def stops_at_once(self) -> bool:
        """True after SIGINT or SIGQUIT."""
        quick: bool = self._quick_shutdown
        return quick

    def init_signals(self) -> None:
        """Keep the arbiter's handlers, which queue signals: uvloop loses one before it runs."""

    def install_signal_handlers(self) -> None:
        """Let the event loop handle signals from now on."""
        super().init_signals()

    async def _serve(self) -> None:
        await self.serve()

    async def serve(self) -> None:
        """Serve until the worker has to end. It has to be overridden."""


def queued_signals(arbiter: Any) -> queue.SimpleQueue[int]:
    """Return the queue into which the arbiter's signal handlers put signals."""
    signals: queue.SimpleQueue[int] = arbiter.SIG_QUEUE
    return signals


def workers(arbiter: Any) -> list[Any]:
    """Return the workers that the arbiter has started and that have not ended."""
    return list(arbiter.WORKERS.values())
