"""An ASGI application that runs a WSGI application in a fixed pool of threads.

A thread is too expensive to wait for a client that sends nothing, half a header or half a body.
A callback blocks its thread. So the event loop reads requests, within a bounded time and size. A
thread gets a request only when it is complete.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from wsgiref.types import WSGIApplication

from app.web import answers, wsgi
from app.web.body_budget import BodyBudget, Share
from app.web.refusals import RefusalLog, shown_method, shown_path
from app.web.thread_pool import Pool
from app.web.wsgi import Headers, Response, Scope

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

#: Seconds in which a client has to send a header, then the body, and then to read the response.
READ_SECONDS = 10.0

#: The largest part of a response that is sent at once, in bytes.
PIECE_BYTES = 32768

#: The beginnings of the paths of pages for people, and of metrics.
PAGE_PATHS = ("/ops", "/metrics")

#: The pages, and the forms, that a process answers at once. A form can run an event.
PAGE_THREADS = 2
FORM_THREADS = 2

#: The largest body of a form in bytes, whatever the limit of a delivery is.
FORM_BYTES = 32768

#: The reasons in the log for the statuses of a request that no route takes.
NO_ROUTE = {404: "unknown_path", 405: "wrong_method"}


def _error(
    status: int, message: str, *, retry_after: int | None = None, close: bool = False
) -> Response:
    made = answers.error(status, message, retry_after=retry_after)
    if close:
        made.headers["Connection"] = "close"
    return Response(status, wsgi.encoded(made.headers), made.get_data())


_BAD_CODING = _error(400, "the only transfer coding that is read is chunked", close=True)
_TOO_SLOW = _error(408, "the body did not arrive in time", close=True)
_TOO_LARGE = _error(413, "the body is too large", close=True)
_NO_ROOM = _error(503, "too many large bodies at once", retry_after=1, close=True)
_FAILED = _error(500, "internal server error")
_NO_THREAD = _error(503, "the service has no thread left", retry_after=1)
_STOPPING = _error(503, "the service is shutting down", retry_after=1, close=True)


class _RefusedError(Exception):
    """The request is refused before the application is called."""

    def __init__(self, response: Response, reason: str) -> None:
        super().__init__(reason)
        self.response = response
        self.reason = reason


class _Body:
    """The body of a request: its messages, the time that it has, and its share of the budget."""

    def __init__(self, receive: Receive, timeout: asyncio.Timeout, share: Share) -> None:
        self._receive = receive
        self._timeout = timeout
        self.share = share

    async def read(self, limit: int, seconds: float) -> bytes:
        """Return the body. Raises ``TimeoutError``, also when it is dropped for another body."""
        chunks: list[bytes] = []
        try:
            async with self._timeout:
                self._timeout.reschedule(asyncio.get_running_loop().time() + seconds)
                await self._read_into(chunks, limit)
        except BaseException:
            # The exception keeps this frame while the client reads its response.
            chunks.clear()
            self.share.end()
            raise
        self.share.complete()
        return b"".join(chunks)

    async def _read_into(self, chunks: list[bytes], limit: int) -> None:
        size, more = 0, True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise asyncio.CancelledError  # as gunicorn cancels a request on a disconnect
            size += len(message["body"])
            if size > limit:
                raise _RefusedError(_TOO_LARGE, "body_too_large")
            if not self.share.grow(size):
                raise _RefusedError(_NO_ROOM, "no_room_for_body")
            chunks.append(message["body"])
            more = message["more_body"]


class _Lane(NamedTuple):
    """The threads for requests of one kind, and the largest body of such a request."""

    pool: Pool[[Scope, bytes], Response]
    max_body_bytes: int


@dataclass(frozen=True, slots=True)
class Background:
    """The work that a process does in addition to requests.

    ``start`` is called in each worker process. A stop waits until all numbers of ``unfinished`` are
    0. If the grace period is over before that, ``release`` is called and the process ends.
    Otherwise ``end`` is called last.
    """

    start: Callable[[], object] = lambda: None
    unfinished: Callable[[], Mapping[str, int]] = dict
    release: Callable[[], object] = lambda: None
    end: Callable[[], object] = lambda: None


class Bridge:
    """An ASGI application that runs a WSGI application in a fixed pool of threads.

    Requests wait in a queue while all threads are busy. Only the limit on connections bounds the
    queue. A request leaves it when its client disconnects.
    """

    def __init__(  # noqa: PLR0913 - keyword arguments, and tests set each bound
        self,
        wsgi_app: WSGIApplication,
        *,
        threads: int,
        max_body_bytes: int,
        stopping: threading.Event,
        background: Background | None = None,
        refusals: RefusalLog | None = None,
        read_seconds: float = READ_SECONDS,
    ) -> None:
        """Serve ``wsgi_app`` with up to ``threads`` POST requests at once.

        A body over ``max_body_bytes`` gets 413 before it is read to its end. A body that is
        incomplete ``read_seconds`` after its header gets 408. While ``stopping`` is set, each
        request gets 503. A stop also waits for the ``background``. ``refusals`` limits warnings.
        """
        self.stopping = stopping
        self.read_seconds = read_seconds
        self.background = background or Background()
        self.refusals = refusals or RefusalLog()

        def lane(name: str, threads: int, limit: int) -> _Lane:
            call = functools.partial(wsgi.call, wsgi_app)
            return _Lane(Pool(call, threads, name, failed=_FAILED), limit)

        self._callbacks = lane("callback", threads, max_body_bytes)
        # Only a POST can run a callback. Health checks have their own threads: a container that
        # waits for its callbacks or for its inbox is busy, not unhealthy. Neither they nor
        # deliveries wait for a page.
        self._readiness = lane("readiness", 1, max_body_bytes)
        self._alive = lane("alive", 1, max_body_bytes)
        self._pages = lane("page", PAGE_THREADS, FORM_BYTES)
        self._forms = lane("form", FORM_THREADS, FORM_BYTES)
        self._budget = BodyBudget(max_body_bytes, threads)
        self._responding = 0

    def unfinished(self) -> dict[str, int]:
        """Return the number of requests without a complete response, and those of the background.

        A request whose client has disconnected counts until its thread has finished it.
        """
        lanes = (self._callbacks, self._readiness, self._alive, self._pages, self._forms)
        abandoned = sum(lane.pool.abandoned for lane in lanes)
        return {"requests": self._responding + abandoned, **self.background.unfinished()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to one request."""
        limit = asyncio.timeout(None)
        loop = asyncio.get_running_loop()
        with self._budget.share(drop=lambda: limit.reschedule(loop.time())) as share:
            await self._respond(scope, _Body(receive, limit, share), send)

    async def _respond(self, scope: Scope, body: _Body, send: Send) -> None:
        lane = self._lane(scope)
        try:
            content = await self._read(scope["headers"], body, lane.max_body_bytes)
        except _RefusedError as refused:
            self.refusals.write(refused.reason, status=refused.response.status)
            await _send(send, refused.response)
            # gunicorn handles this like a disconnected client: it closes and logs nothing.
            raise asyncio.CancelledError from None
        if self.stopping.is_set():
            if scope["method"] == "POST":  # health checks are expected to fail now
                self.refusals.write("stopping", status=_STOPPING.status)
            await _send(send, _STOPPING)
            return
        self._responding += 1
        try:
            # This is cancelled when the client disconnects. A request in the queue is then
            # dropped, and Stripe delivers it again. A running callback is not interrupted.
            await _send(send, await self._run(lane, scope, content))
        finally:
            self._responding -= 1

    async def _run(self, lane: _Lane, scope: Scope, body: bytes) -> Response:
        try:
            response = await lane.pool.call(scope, body)
        except (RuntimeError, MemoryError) as error:
            self.refusals.write("no_thread", status=_NO_THREAD.status, error=str(error))
            return _NO_THREAD
        self._log_missing_route(scope, response.status)
        return response

    def _log_missing_route(self, scope: Scope, status: int) -> None:
        """Log a request that no route takes: the URL of the destination may be wrong.

        Scanners send GET requests to unknown paths all day. Stripe sends none.
        """
        reason, method = NO_ROUTE.get(status), scope["method"]
        if reason and not (reason == "unknown_path" and method in {"GET", "HEAD"}):
            shown = {"method": shown_method(method), "path": shown_path(scope["path"])}
            self.refusals.write(reason, status=status, **shown)

    async def _read(self, headers: Headers, body: _Body, limit: int) -> bytes:
        for name, value in headers:
            if name == b"transfer-encoding" and value.lower() != b"chunked":
                raise _RefusedError(_BAD_CODING, "unknown_transfer_coding")
            if name == b"content-length" and int(value) > limit:
                raise _RefusedError(_TOO_LARGE, "body_too_large")
        try:
            return await body.read(limit, self.read_seconds)
        except TimeoutError:
            if body.share.is_dropped:
                raise _RefusedError(_NO_ROOM, "no_room_for_body") from None
            raise _RefusedError(_TOO_SLOW, "body_too_slow") from None

    def _lane(self, scope: Scope) -> _Lane:
        path, is_post = wsgi.path(scope), scope["method"] == "POST"
        if path.startswith(PAGE_PATHS):
            return self._forms if is_post else self._pages
        if is_post:
            return self._callbacks
        return self._alive if path == "/healthz" else self._readiness


async def _send(send: Send, response: Response) -> None:
    status, headers, body = response
    await send({"type": "http.response.start", "status": status, "headers": headers})
    # gunicorn passes a larger piece to writelines(). In some versions of Python 3.12 and 3.13 that
    # does not pause writing when the client stops reading.
    last = max(len(body) - 1, 0) // PIECE_BYTES * PIECE_BYTES
    for start in range(0, last + 1, PIECE_BYTES):
        piece = body[start : start + PIECE_BYTES]
        await send({"type": "http.response.body", "body": piece, "more_body": start < last})
