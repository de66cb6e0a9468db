"""Reads requests on an event loop and runs the WSGI application in a fixed pool of real threads.

A thread costs too much to be held by a client that sends nothing, half a header or half a body,
and a callback blocks in ways that no event loop can see. So gunicorn's asgi worker reads: a
request reaches a thread only when all of it has arrived, within a bounded time and size. Parsing
and writing HTTP stay gunicorn's; what it leaves unbounded is bounded here.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import json
import os
import queue
import signal
import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes
from wsgiref.types import WSGIApplication, WSGIEnvironment

import structlog
from gunicorn.asgi.protocol import ASGIProtocol
from gunicorn.workers.gasgi import ASGIWorker

from app import create_app
from app.errors import InboxUnavailable
from app.runtime import forks
from app.services import Services, services
from app.web.framing import Parser
from app.web.thread_pool import Pool

Message = dict[str, Any]
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

#: How long a client may take for a header, for the body after it, and to take the answer.
READ_SECONDS = 10.0

TICK_SECONDS = 0.1

STOP_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}

#: After how long a thread that computes gives way to one that waits. Python's own 5 ms are longer
#: than the steps of many callbacks, and who pauses sooner by itself is never asked to give way: the
#: event loop could wait for seconds.
SWITCH_SECONDS = 0.001

#: gunicorn sends SIGKILL when its graceful_timeout is over: a worker leaves by itself before.
SPARE_SECONDS = 1.0

PIECE_BYTES = 32768

#: Seconds, and reads, for which a connection that is being closed discards what its client sends.
#: A socket that is closed with unread bytes is reset, and the client can lose the answer.
LINGER_SECONDS = 1.0
LINGER_READS = 256

log = structlog.get_logger(__name__)


class Answer(NamedTuple):
    """A whole answer to one request."""

    status: int
    headers: Headers
    body: bytes


def _error(status: int, message: str, *headers: tuple[bytes, bytes]) -> Answer:
    body = json.dumps({"error": message}).encode()
    length = (b"content-length", str(len(body)).encode())
    return Answer(status, [(b"content-type", b"application/json"), length, *headers], body)


_CLOSE = (b"connection", b"close")
_BAD_CODING = _error(400, "the only transfer coding that is read is chunked", _CLOSE)
_TOO_SLOW = _error(408, "the body did not arrive in time", _CLOSE)
_TOO_LARGE = _error(413, "the body is too large", _CLOSE)
_FAILED = _error(500, "internal server error")
_NO_THREAD = _error(503, "the service has no thread left", (b"retry-after", b"1"))
_STOPPING = _error(503, "the service is shutting down", (b"retry-after", b"1"), _CLOSE)


class _RefusedError(Exception):
    """The request is answered without being given to the application."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


@dataclass(frozen=True, slots=True)
class Background:
    """What a process does beside answering requests.

    ``begin`` is called in the process that serves, ``leave`` when it ends with something
    ``unfinished``.
    """

    begin: Callable[[], object] = lambda: None
    unfinished: Callable[[], int] = lambda: 0
    leave: Callable[[], object] = lambda: None


class Bridge:
    """An ASGI application that serves a WSGI application from a fixed pool of threads.

    Requests that find all threads busy wait. Nothing but the limit on connections bounds how many,
    because a request leaves the queue when its client does: what is left is still awaited.
    """

    def __init__(  # noqa: PLR0913 - named, and each a bound that tests set
        self,
        wsgi_app: WSGIApplication,
        *,
        threads: int,
        max_body_bytes: int,
        stopping: threading.Event,
        background: Background | None = None,
        read_seconds: float = READ_SECONDS,
    ) -> None:
        """Serve ``wsgi_app`` with ``threads`` POST requests at once.

        A body over ``max_body_bytes`` is answered 413 before it is read to its end, one that is not
        complete ``read_seconds`` after its header 408. Once ``stopping`` is set, every request is
        answered 503. A stop waits for the ``background`` as well.
        """
        self.stopping = stopping
        self.read_seconds = read_seconds
        call = functools.partial(_call, wsgi_app)
        self._max_body_bytes = max_body_bytes
        self._callbacks = Pool(call, threads, "callback", failed=_FAILED)
        # Only a POST can run a callback. Health checks have threads of their own: a container
        # whose callbacks, or whose inbox, are all waited for is busy, not ill.
        self._probes = Pool(call, 1, "probe", failed=_FAILED)
        self._alive = Pool(call, 1, "alive", failed=_FAILED)
        self.background = background or Background()
        self._answering = 0

    @property
    def unfinished(self) -> int:
        """How many requests are queued, running, or not answered yet, and what else is unfinished.

        A request whose client has left counts until its thread is done with it.
        """
        abandoned = self._callbacks.abandoned + self._probes.abandoned + self._alive.abandoned
        return self._answering + abandoned + self.background.unfinished()

    def prepare_callbacks(self, prepare: Callable[[], object]) -> None:
        """Let each thread that runs callbacks call ``prepare`` first, of those that begin later."""
        self._callbacks.prepare = prepare

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            body = await self._read(scope["headers"], receive)
        except _RefusedError as refused:
            log.warning("request_refused", status=refused.answer.status)
            await _send(send, refused.answer)
            # gunicorn takes this for a client that left: it closes, without a word in the log.
            raise asyncio.CancelledError from None
        if self.stopping.is_set():
            await _send(send, _STOPPING)
            return
        self._answering += 1
        try:
            # When the client leaves, this is cancelled: a request that still waits for a thread is
            # dropped (Stripe delivers it again), one that has begun runs to its end.
            await _send(send, await self._run(scope, body))
        finally:
            self._answering -= 1

    async def _run(self, scope: Scope, body: bytes) -> Answer:
        try:
            return await self._pool(scope).call(scope, body)
        except (RuntimeError, MemoryError) as error:
            log.warning("request_refused", status=_NO_THREAD.status, reason=str(error))
            return _NO_THREAD

    async def _read(self, headers: Headers, receive: Receive) -> bytes:
        for name, value in headers:
            if name == b"transfer-encoding" and value.lower() != b"chunked":
                raise _RefusedError(_BAD_CODING)
            if name == b"content-length" and int(value) > self._max_body_bytes:
                raise _RefusedError(_TOO_LARGE)
        try:
            async with asyncio.timeout(self.read_seconds):
                return await _read_body(receive, self._max_body_bytes)
        except TimeoutError:
            raise _RefusedError(_TOO_SLOW) from None

    def _pool(self, scope: Scope) -> Pool[[Scope, bytes], Answer]:
        if scope["method"] == "POST":
            return self._callbacks
        return self._alive if scope["path"] == "/healthz" else self._probes


async def _read_body(receive: Receive, limit: int) -> bytes:
    chunks: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise asyncio.CancelledError  # as gunicorn does to a request whose client has left
        size += len(message["body"])
        if size > limit:
            raise _RefusedError(_TOO_LARGE)
        chunks.append(message["body"])
        more = message["more_body"]
    return b"".join(chunks)


async def _send(send: Send, answer: Answer) -> None:
    await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
    # gunicorn hands a larger piece to writelines(), which in some versions of Python 3.12 and 3.13
    # does not tell that the client is not reading.
    last = max(len(answer.body) - 1, 0) // PIECE_BYTES * PIECE_BYTES
    for start in range(0, last + 1, PIECE_BYTES):
        piece = answer.body[start : start + PIECE_BYTES]
        await send({"type": "http.response.body", "body": piece, "more_body": start < last})


def _call(wsgi_app: WSGIApplication, scope: Scope, body: bytes) -> Answer:
    return _answer(wsgi_app, _environ(scope, body))


def _answer(wsgi_app: WSGIApplication, environ: WSGIEnvironment) -> Answer:
    chunks: list[bytes] = []
    started: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(
        status: str, headers: list[tuple[str, str]], _exc_info: object = None, /
    ) -> Callable[[bytes], object]:
        started.append((status, headers))
        return chunks.append

    result = wsgi_app(environ, start_response)
    try:
        chunks.extend(result)
    finally:
        if close := getattr(result, "close", None):
            close()
    status, headers = started[-1]
    encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    return Answer(int(status[:3]), encoded, b"".join(chunks))


def _environ(scope: Scope, body: bytes) -> WSGIEnvironment:
    server, client = scope["server"] or ("localhost", 0), scope["client"] or ("", 0)
    environ = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": scope["root_path"],
        "PATH_INFO": _path(scope["raw_path"]),
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "SERVER_NAME": server[0],
        "SERVER_PORT": str(server[1]),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "REMOTE_ADDR": client[0],
        "REMOTE_PORT": str(client[1]),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope["scheme"],
        "wsgi.input": io.BytesIO(body),
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    for name, value in scope["headers"]:
        key, text = _key(name), value.decode("latin-1")
        environ[key] = f"{environ[key]},{text}" if key in environ else text
    environ.pop("HTTP_TRANSFER_ENCODING", None)
    environ["CONTENT_LENGTH"] = str(len(body))
    return environ


def _path(raw: bytes) -> str:
    # A whole URL is a request target too: https://www.rfc-editor.org/rfc/rfc9112#section-3.2.2
    path = raw if raw.startswith(b"/") else b"/" + raw.partition(b"://")[2].partition(b"/")[2]
    return unquote_to_bytes(path).decode("latin-1")


@functools.lru_cache(maxsize=128)
def _key(header: bytes) -> str:
    name = header.decode("latin-1").upper().replace("-", "_")
    return name if name in {"CONTENT_TYPE", "CONTENT_LENGTH"} else f"HTTP_{name}"


class Connection(ASGIProtocol):  # type: ignore[misc] # gunicorn publishes no types
    """One client's connection, held for a bounded time in each of its states.

    gunicorn bounds only the wait for the second request of a connection. Bounded here are the wait
    for the first one, the reading of an answer, the framing of a body, and the connections.
    """

    _closed: bool
    _linger: asyncio.TimerHandle | None = None
    _discarded = 0

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Give the client ``read_seconds`` for its first header, and make room for it."""
        super().connection_made(transport)
        # 0: whatever the kernel does not take at once counts as an answer that is not being read.
        transport.set_write_buffer_limits(high=0)
        self._keepalive_handle = self._later(self._keepalive_timeout)
        self.worker.waiting[self] = None
        self.worker.make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self.worker.waiting.pop(self, None)
        if self._linger is not None:
            self._linger.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what the client sent, or discard it when no more is answered."""
        if not self._closed:
            super().data_received(data)
            return
        self._discarded += 1
        if self._discarded > LINGER_READS:
            self.transport.abort()

    def _setup_callback_parser(self) -> None:
        # Never the C parser: memory was seen to grow without end when connections close after
        # each request.
        self._callback_parser = Parser(
            on_headers_complete=self._on_headers_complete,
            on_body=self._on_body,
            on_message_complete=self._on_message_complete,
            limit_request_line=self.cfg.limit_request_line,
            limit_request_fields=self.cfg.limit_request_fields,
            limit_request_field_size=self.cfg.limit_request_field_size,
        )

    def _http1_buffered(self) -> int:
        # gunicorn counts what its own parser holds, and not that of a subclass.
        held: int = super()._http1_buffered()
        return held + self._callback_parser.pipelined

    def _close_transport(self) -> None:
        """Tell the client that nothing follows, and close when it has closed, or a second later."""
        if self._closed:
            return
        self._closed = True
        self._resume_reading()
        with contextlib.suppress(OSError, RuntimeError):  # the client has left in this moment
            self.transport.write_eof()
        loop: asyncio.AbstractEventLoop = self.worker.loop
        self._linger = loop.call_later(LINGER_SECONDS, self.transport.close)
        self.worker.waiting[self] = None

    def pause_writing(self) -> None:
        """Give the client ``read_seconds`` to take its answer."""
        super().pause_writing()
        self._stalled = self._later(self.transport.abort)

    def resume_writing(self) -> None:
        """Go on: the answer was taken."""
        self._stalled.cancel()
        super().resume_writing()

    def _later(self, act: Callable[[], None]) -> asyncio.TimerHandle:
        loop: asyncio.AbstractEventLoop = self.worker.loop
        return loop.call_later(self.worker.asgi.read_seconds, act)

    def _on_message_complete(self) -> None:
        self.worker.waiting.pop(self, None)
        super()._on_message_complete()

    def _arm_keepalive_timer(self) -> None:
        self.worker.waiting[self] = None
        super()._arm_keepalive_timer()

    def _is_websocket_upgrade(self, _request: object) -> bool:
        return False

    def _send_error_response(self, status: int, message: str, *more: Any) -> None:
        # 501 is what gunicorn says to an unknown transfer coding: the client's fault, not ours.
        super()._send_error_response(
            400 if status == HTTPStatus.NOT_IMPLEMENTED else status, message, *more
        )


def choose_processor(taken: Iterable[int | None], workers: int) -> int | None:
    """Return the processor that the next worker is to stay on, or None for any.

    ``taken`` are those of the workers that run, and ``workers`` says how many are to. Threads that
    share one interpreter lock hand it to each other at nearly every step of a delivery, and to
    hand it to another processor costs more than the step. Where there is no worker for each
    processor the operating system does better: it knows what else the machine has to do.
    """
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if not usable or workers % len(usable):
        return None
    load = Counter(taken)
    return min(usable, key=lambda processor: load[processor])


def _give_way() -> None:
    """Let this thread not take the processor from the one that wakes it.

    On a processor that its process has to itself it would find that the other has the interpreter,
    and give it back. The event loop still takes it from those that compute.
    """
    # No sandbox has to allow it, and no system but Linux to know it.
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


class Worker(ASGIWorker):  # type: ignore[misc] # gunicorn publishes no types
    """gunicorn's asgi worker for a ``Bridge``: a bounded number of connections, a bounded end.

    The heartbeat is the event loop's, so that a callback may run for longer than ``timeout``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take what gunicorn gives."""
        super().__init__(*args, **kwargs)
        self.waiting: dict[Connection, None] = {}
        """Connections without a whole request, the one that has waited longest first."""
        self.early_signals: queue.SimpleQueue[int] = queue.SimpleQueue()
        """Signals that came before there was a handler for them; ``gunicorn.conf.py`` puts it."""
        self.processor: int | None = None
        """Where all of its threads run, if it matters; ``gunicorn.conf.py`` chooses it."""

    def make_room(self) -> None:
        """Drop the connection that has waited longest if there are too many.

        The newest one waits too: it is dropped itself when all others are being answered.
        """
        if self.nr_conns > self.worker_connections:
            oldest = next(iter(self.waiting))
            del self.waiting[oldest]
            oldest.transport.abort()

    def init_signals(self) -> None:
        """Keep the arbiter's handlers, which queue, until the loop runs: uvloop loses signals."""

    def handle_exit_signal(self) -> None:
        """Stop accepting, and let what is running end."""
        super().handle_exit_signal()
        self._stop_accepting()

    def handle_quit_signal(self) -> None:
        """Stop, whatever is running."""
        super().handle_quit_signal()
        self._stop_accepting()

    def run(self) -> None:
        """Serve until told to stop, then leave, whatever callbacks still run."""
        sys.setswitchinterval(SWITCH_SECONDS)
        if self.processor is not None:
            with contextlib.suppress(OSError):  # some sandboxes do not let a process choose
                os.sched_setaffinity(0, {self.processor})
            self.asgi.prepare_callbacks(_give_way)
        forks.isolate(self.SIGNALS, self.sockets)
        self.asgi.background.begin()
        super().run()
        if self.asgi.unfinished:
            self.log.warning("Leaving while requests are running: %d", self.asgi.unfinished)
            self.asgi.background.leave()
            # A thread cannot be stopped, and a normal exit would wait for it.
            os._exit(0)

    async def _serve(self) -> None:
        super().init_signals()
        for listener in self.sockets:
            await self._listen(listener.sock)
        if self._is_told_to_stop():
            self.handle_exit_signal()
        while self.alive:
            await self._tick()
        self._stop_accepting()
        deadline = self.loop.time() + self.cfg.graceful_timeout - SPARE_SECONDS
        while self.asgi.unfinished and not self._quick_shutdown and self.loop.time() < deadline:
            await self._tick()

    def _is_told_to_stop(self) -> bool:
        """Whether a signal to stop came while this process started. gunicorn would lose it."""
        with contextlib.suppress(queue.Empty):
            while True:
                if self.early_signals.get_nowait() in STOP_SIGNALS:
                    return True
        return False

    async def _listen(self, sock: Any) -> None:
        # asyncio accepts as many connections at a time as the backlog has places. One at a time:
        # a burst then spreads over the workers instead of landing on the first that wakes up.
        server = await self.loop.create_server(lambda: Connection(self), sock=sock, backlog=1)
        sock.listen(self.cfg.backlog)
        self.servers.append(server)

    async def _tick(self) -> None:
        self.notify()
        if self.ppid != os.getppid():
            self.handle_exit_signal()
        await asyncio.sleep(TICK_SECONDS)

    def _stop_accepting(self) -> None:
        self.asgi.stopping.set()
        for server in self.servers:
            server.close()


def load() -> Bridge:
    """Build the service for gunicorn, and bring the inbox's tables to this version.

    ``StartError`` is a ``SystemExit``: gunicorn lets it end the process with its message alone.
    """
    flask_app = create_app()
    parts = services(flask_app)
    log.info(
        "service_configured",
        mode="live" if parts.settings.livemode else "test",
        processing=parts.settings.processing,
        handled=[module.event_type for module in parts.registry.modules],
        inbox=parts.inbox.address,
        webhook=f"http://localhost:{parts.settings.port}/webhook",
    )
    try:
        parts.inbox.migrate()
    except InboxUnavailable as error:  # it is tried again at the first delivery: 503 until then
        log.warning("inbox_unavailable_at_start", reason=error.reason)
    return Bridge(
        flask_app,
        threads=parts.settings.web_threads,
        max_body_bytes=parts.settings.max_body_bytes,
        stopping=parts.stopping,
        background=_background(parts),
    )


def _background(parts: Services) -> Background:
    """Keep the leases, and in queue mode run events, in the process that serves."""

    def begin() -> None:
        parts.leases.watchdog.start()
        parts.leases.start()
        if parts.settings.is_queue:
            parts.worker.start(parts.settings.worker_threads)

    return Background(
        begin=begin,
        unfinished=lambda: parts.leases.unrecorded + parts.worker.unfinished,
        leave=parts.worker.release,
    )
