"""The real gunicorn, with the real gunicorn.conf.py, serving a small application to all sorts."""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import http.client
import json
import os
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import termios
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import pytest
from flask import Flask

from app.web.server import LINGER_READS, TICK_SECONDS, Background, Bridge, choose_processor
from devkit import samples
from tests.support.services import skip_without_prlimit

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "gunicorn.conf.py"
SECRET = "whsec_fake_for_tests"
DEADLINE = 60.0
"""Seconds after which a test that waits for something fails. None of them waits that long."""

TINY_APP = f"""
    import os, pathlib, sys, threading, time

    from flask import Flask, jsonify, request
    from stripe import WebhookSignature

    from app import log
    from app.web import server

    app = Flask("tiny")
    folder = pathlib.Path(__file__).parent

    @app.post("/webhook")
    def webhook():
        body, signature = request.get_data(as_text=True), request.headers["Stripe-Signature"]
        WebhookSignature.verify_header(body, signature, "{SECRET}", 300)
        return jsonify(outcome="handled")

    @app.post("/hold/<name>")
    def hold(name):
        return held(name, lambda: time.sleep(0.01))

    @app.post("/burn/<name>")
    def burn(name):
        return held(name, lambda: sum(range(100_000)))

    def held(name, spend):
        (folder / f"{{name}}.begun").touch()
        while not (folder / f"{{name}}.go").exists():
            spend()
        (folder / f"{{name}}.ended").touch()
        return jsonify(held=name)

    @app.route("/echo", methods=["GET", "HEAD", "POST"])
    def echo():
        texts = {{k: v for k, v in request.environ.items() if isinstance(v, str)}}
        return jsonify(texts | {{"body": request.get_data(as_text=True)}})

    @app.post("/exit")
    def leave():
        sys.exit(3)

    @app.get("/large")
    def large():
        return b"x" * 20_000_000

    @app.get("/pid")
    def pid():
        return str(os.getpid())

    def load(threads, read_seconds, max_body_bytes):
        log.configure("info", "json")
        return server.Bridge(
            app,
            threads=threads,
            max_body_bytes=max_body_bytes,
            stopping=threading.Event(),
            read_seconds=read_seconds,
        )
"""


def wait_for(condition: Callable[[], bool]) -> None:
    """Return as soon as ``condition`` holds."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        """The body, read."""
        return json.loads(self.body)


class Client:
    """One connection, on which a test can also be rude."""

    def __init__(self, port: int, sent: bytes = b"") -> None:
        """Connect to ``port``, and send the raw bytes."""
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)
        self.sock.sendall(sent)

    def send(self, data: bytes) -> None:
        """Send raw bytes."""
        self.sock.sendall(data)

    def answer(self, method: str = "POST") -> Answer:
        """Read one answer, to the end of its body."""
        response = http.client.HTTPResponse(self.sock, method=method)
        with contextlib.closing(response):
            response.begin()
            return Answer(response.status, response.headers, response.read())

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        """Send a proper request, and read the answer. ``_`` in a header's name becomes ``-``."""
        lines = [f"{method} {path} HTTP/1.1", "Host: test", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.send("\r\n".join([*lines, "", ""]).encode() + body)
        return self.answer(method)

    def rest(self) -> bytes:
        """Read until the server closes the connection."""
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while chunk := self.sock.recv(65536):
                received += chunk
        return received

    def is_closed(self) -> bool:
        """Whether the server has closed, or said anything, which it has no reason to."""
        return bool(select.select([self.sock], [], [], 0)[0])

    def unread(self) -> int:
        """How many bytes are here to be read."""
        size = array.array("i", [0])
        fcntl.ioctl(self.sock, termios.FIONREAD, size)
        return size[0]

    def close(self) -> None:
        """Leave."""
        self.sock.close()


@dataclass(frozen=True)
class Server:
    """A running gunicorn."""

    process: subprocess.Popen[bytes]
    folder: Path
    port: int
    pool: ThreadPoolExecutor
    clients: contextlib.ExitStack

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return (self.folder / "log").read_text()

    @property
    def workers(self) -> list[int]:
        """The process ids of its workers."""
        pid = self.process.pid
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]

    def connect(self, sent: bytes = b"") -> Client:
        """Open a connection, which lasts until the test closes it or the server is gone."""
        client = Client(self.port, sent)
        self.clients.callback(client.close)
        return client

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        """Ask on a connection of its own."""
        with contextlib.closing(Client(self.port)) as client:
            return client.ask(method, path, body, **headers)

    def deliver(self) -> int:
        """Deliver a signed notification, and return the status of the answer."""
        body = b'{"id": "evt_1"}'
        return self.ask(
            "POST", "/webhook", body, Stripe_Signature=samples.sign(body, SECRET)
        ).status

    def hold(self, name: str, how: str = "hold") -> Future[Answer]:
        """Have a callback begin that ends when it is released."""
        answer = self.pool.submit(self.ask, "POST", f"/{how}/{name}")
        wait_for((self.folder / f"{name}.begun").exists)
        return answer

    def release(self, name: str) -> None:
        """Let a callback end."""
        (self.folder / f"{name}.go").touch()

    def ended(self, name: str) -> bool:
        """Whether a callback has come to its end."""
        return (self.folder / f"{name}.ended").exists()

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the exit status."""
        self.process.send_signal(how)
        return self.process.wait(DEADLINE)

    def refuses(self) -> bool:
        """Whether nobody listens any more."""
        try:
            Client(self.port).close()
        except ConnectionError:
            return True
        return False


@contextlib.contextmanager
def running(
    folder: Path,
    *options: str,
    threads: int = 2,
    read_seconds: float = 60,
    max_body_bytes: int = 65536,
    config: Path = CONFIG,
) -> Iterator[Server]:
    """Run gunicorn with its real configuration and ``options``, until the test is over."""
    (folder / "tiny.py").write_text(textwrap.dedent(TINY_APP))
    command = [sys.executable, "-m", "gunicorn", "-c", str(config), "--bind", "127.0.0.1:0"]
    command += [
        "--pythonpath",
        f"{folder},{ROOT}",
        *options,
        f"tiny:load({threads}, {read_seconds}, {max_body_bytes})",
    ]
    environment = {**os.environ, "STRIPE_API_KEY": "sk_test_fake", "STRIPE_WEBHOOK_SECRET": SECRET}
    with started(command, folder, environment) as server:
        yield server


@contextlib.contextmanager
def started(command: list[str], folder: Path, environment: dict[str, str]) -> Iterator[Server]:
    """Run ``command``, which is gunicorn, and log to ``folder``."""
    log = folder / "log"
    with ThreadPoolExecutor() as pool, contextlib.ExitStack() as clients, log.open("wb") as out:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=out)
        try:
            yield Server(process, folder, _port(process, log), pool, clients)
        finally:
            _end(process)


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    found: list[str] = []

    def listens() -> bool:
        assert process.poll() is None, log.read_text()
        found.extend(re.findall(r"Listening at: http://127.0.0.1:(\d+)", log.read_text()))
        return bool(found)

    wait_for(listens)
    return int(found[0])


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGQUIT)
    try:
        process.wait(DEADLINE)
    finally:
        process.kill()


def service_environment(folder: Path) -> dict[str, str]:
    """Return what the real application needs to be set."""
    database = {"DATABASE_URL": f"sqlite:///{folder}/inbox.sqlite3"}
    return {
        **os.environ,
        "STRIPE_API_KEY": "sk_test_fake",
        "STRIPE_WEBHOOK_SECRET": SECRET,
        **database,
    }


Serve = Callable[..., Server]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """A function that starts gunicorn, with options and arguments of ``running``."""
    with contextlib.ExitStack() as stack:
        yield lambda *options, **more: stack.enter_context(running(tmp_path, *options, **more))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One gunicorn for all tests that leave it as it is."""
    with running(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def many_files() -> Iterator[None]:
    """Enough open files for this process and for the server that it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(4096, hard)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


SLOW = {
    "no byte": b"",
    "half a header": b"POST /webhook HTTP/1.1\r\nHost: test\r\nStripe-Sig",
    "half a body": b'POST /webhook HTTP/1.1\r\nHost: test\r\nContent-Length: 600\r\n\r\n{"id": ',
}


@pytest.mark.usefixtures("many_files")
@pytest.mark.parametrize("sent", SLOW.values(), ids=SLOW.keys())
def test_slow_senders_hold_nobody_up(serve: Serve, sent: bytes) -> None:
    """500 clients that send too little do not keep a delivery waiting, and are closed in time."""
    server = serve(read_seconds=2)
    slow = [server.connect(sent) for _ in range(500)]

    delivered = 0
    while not any(client.is_closed() for client in slow):
        assert server.deliver() == 200
        delivered += 1

    assert delivered > 0
    wait_for(lambda: all(client.is_closed() for client in slow))
    assert server.deliver() == 200


def test_half_a_body_is_answered_408(serve: Serve) -> None:
    """A client whose body does not come is told so before its connection is closed."""
    client = serve(read_seconds=0.2).connect(SLOW["half a body"])

    assert client.answer().status == 408
    assert client.rest() == b""


def test_slow_sender_on_a_used_connection_is_closed(serve: Serve) -> None:
    """After its first request a connection may be idle, or in half a header, for a bounded time."""
    server = serve("--keep-alive", "1")
    idle, slow = server.connect(), server.connect()
    assert idle.ask("GET", "/echo").status == slow.ask("GET", "/echo").status == 200

    slow.send(SLOW["half a header"])

    assert idle.rest() == slow.rest() == b""


def test_the_connection_that_has_waited_longest_makes_room(serve: Serve) -> None:
    """However many clients send nothing: over the limit, the oldest of them is dropped."""
    server = serve("--workers", "1", "--worker-connections", "10")
    callback = server.hold("busy")
    silent = [server.connect() for _ in range(30)]

    assert server.deliver() == 200
    wait_for(lambda: all(client.is_closed() for client in silent[:20]))
    assert not silent[-1].is_closed()
    server.release("busy")
    assert callback.result(DEADLINE).status == 200


def test_slow_reader_is_closed(serve: Serve) -> None:
    """A client that does not take its answer loses its connection after a bounded time."""
    client = serve(read_seconds=0.5).connect(b"GET /large HTTP/1.1\r\nHost: test\r\n\r\n")
    wait_for(client.is_closed)  # the beginning of the answer is there
    time.sleep(1)  # twice the time that it has: reading earlier would be taking the answer

    assert len(client.rest()) < 20_000_000


def test_answer_that_the_kernel_does_not_take_at_once_arrives(server: Server) -> None:
    """A large answer reaches a client that begins to read it when no more of it can be sent."""
    client = server.connect(b"GET /large HTTP/1.1\r\nHost: test\r\n\r\n")
    sizes = [0]
    while sizes[-1] == 0 or len(set(sizes[-20:])) > 1:  # for 0.2 s no byte has come
        time.sleep(0.01)
        sizes.append(client.unread())
    assert sizes[-1] < 20_000_000

    assert len(client.answer("GET").body) == 20_000_000


def test_cpu_bound_callback_holds_nobody_up(serve: Serve) -> None:
    """A callback that computes in Python does not keep other deliveries of its process waiting."""
    server = serve("--workers", "1")
    burning = server.hold("computing", how="burn")

    assert [server.deliver() for _ in range(10)] == [200] * 10
    assert not burning.done()
    server.release("computing")
    assert burning.result(DEADLINE).status == 200


def test_callbacks_at_once_are_bounded(serve: Serve) -> None:
    """The third of two callbacks waits for its turn; health checks do not wait with it."""
    server = serve("--workers", "1", threads=2)
    running = [server.hold("first"), server.hold("second")]
    third = server.pool.submit(server.ask, "POST", "/hold/third")

    assert server.ask("GET", "/pid").status == 200
    assert not (server.folder / "third.begun").exists()
    for name in ("first", "second", "third"):
        server.release(name)
    assert [answer.result(DEADLINE).status for answer in [*running, third]] == [200] * 3


def test_long_callback_does_not_stop_the_heartbeat(serve: Serve) -> None:
    """A callback may run for longer than gunicorn's time-out, which is about the event loop."""
    server = serve("--workers", "1", "--timeout", "1")
    pid = server.ask("GET", "/pid").body
    callback = server.hold("long")
    time.sleep(3)  # three time-outs: nothing is to happen, so there is nothing to wait for

    server.release("long")

    assert callback.result(DEADLINE).status == 200
    assert server.ask("GET", "/pid").body == pid


def test_callback_outlives_its_client(serve: Serve) -> None:
    """A client that leaves does not end its callback, and nobody is told about an error."""
    server = serve("--workers", "1", threads=1)
    gone = server.connect(b"POST /hold/mine HTTP/1.1\r\nHost: test\r\n\r\n")
    wait_for((server.folder / "mine.begun").exists)

    gone.close()
    server.release("mine")

    wait_for(lambda: server.ended("mine"))
    assert server.deliver() == 200
    assert "Traceback" not in server.log


def test_request_in_the_queue_leaves_with_its_client(serve: Serve) -> None:
    """A callback that has not begun when its client leaves is not begun: it is delivered again."""
    server = serve("--workers", "1", threads=1)
    callback = server.hold("first")
    gone = server.connect(b"POST /hold/queued HTTP/1.1\r\nHost: test\r\n\r\n")
    assert server.ask("GET", "/pid").status == 200  # one loop: by now it has read that request

    gone.close()
    assert server.ask("GET", "/pid").status == 200  # and by now, that its client has left
    server.release("first")

    assert callback.result(DEADLINE).status == 200
    assert server.deliver() == 200
    assert not (server.folder / "queued.begun").exists()


def test_client_that_leaves_in_its_body_is_forgotten(server: Server) -> None:
    """Half a body and a closed connection make no line in the log."""
    before = server.log
    server.connect(SLOW["half a body"]).close()

    assert server.deliver() == 200
    assert server.log == before


def test_callback_that_exits_does_not_end_the_process(serve: Serve) -> None:
    """sys.exit() in a callback is an error like any other: answered 500 and logged."""
    server = serve("--workers", "1")
    pid = server.ask("GET", "/pid").body

    answer = server.ask("POST", "/exit")

    assert (answer.status, answer.json) == (500, {"error": "internal server error"})
    assert "SystemExit: 3" in server.log
    assert server.ask("GET", "/pid").body == pid


def test_request_without_a_thread_is_answered(serve: Serve) -> None:
    """When the system has no thread left, requests get 503, and 200 as soon as it has one."""
    skip_without_prlimit()
    server = serve("--workers", "1")
    client = server.connect()
    worker = int(client.ask("GET", "/pid").body)
    limits = resource.prlimit(worker, resource.RLIMIT_AS)
    # Less than the stack of a thread needs.
    size = int(Path(f"/proc/{worker}/statm").read_text().split()[0]) * resource.getpagesize()
    resource.prlimit(worker, resource.RLIMIT_AS, (size + 1_500_000, limits[1]))

    refused = client.ask("POST", "/echo")
    assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
    assert refused.json == {"error": "the service has no thread left"}
    assert client.ask("GET", "/pid").status == 200
    assert "can't start new thread" in server.log
    resource.prlimit(worker, resource.RLIMIT_AS, limits)
    assert client.ask("POST", "/echo", b"x").json["body"] == "x"


MALFORMED = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "a method in lower case": b"post / HTTP/1.1\r\n\r\n",
    "a NUL in the target": b"GET /\0 HTTP/1.1\r\n\r\n",
    "a non-ASCII target": b"GET /\xe9 HTTP/1.1\r\n\r\n",
    "a long target": b"GET /" + b"x" * 5000 + b" HTTP/1.1\r\n\r\n",
    "no colon": b"GET / HTTP/1.1\r\nHost\r\n\r\n",
    "a space before the colon": b"GET / HTTP/1.1\r\nHost : test\r\n\r\n",
    "a folded header": b"GET / HTTP/1.1\r\nHost: test\r\nX: a\r\n b\r\n\r\n",
    "a NUL in a header": b"GET / HTTP/1.1\r\nHost: test\r\nX: \0\r\n\r\n",
    "a bare line feed": b"GET / HTTP/1.1\nHost: test\n\n",
    "a long header": b"GET / HTTP/1.1\r\nX: " + b"x" * 5000 + b"\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\n" + b"X: x\r\n" * 100 + b"\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "a length of 4,301 digits": b"POST / HTTP/1.1\r\nContent-Length: " + b"9" * 4301 + b"\r\n\r\n",
    "a length of 4,000 digits": b"POST / HTTP/1.1\r\nContent-Length: " + b"9" * 4000 + b"\r\n\r\n",
    "a negative length": b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    "a length and chunks": b"POST / HTTP/1.1\r\nContent-Length: 5\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks in HTTP/1.0": b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "identity": b"POST / HTTP/1.1\r\nTransfer-Encoding: identity\r\n\r\n",
    "identity in chunks": b"POST / HTTP/1.1\r\n"
    b"Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
    "gzip": b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
    "gzip in chunks": b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "gzip and chunked, in two headers": b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "an unknown coding": b"POST / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a vertical tab before chunked": b"POST / HTTP/1.1\r\n"
    b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "a chunk size that is no number": b"POST / HTTP/1.1\r\n"
    b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
    "a negative chunk size": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nx\r\n",
    "a chunk without an end": b"POST / HTTP/1.1\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n1\r\nxx\r\n0\r\n\r\n",
    "a huge chunk": b"POST / HTTP/1.1\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 3000 + b"\r\n" + b"x" * 70000,
}


@pytest.mark.parametrize("request_bytes", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_request_is_refused(server: Server, request_bytes: bytes) -> None:
    """What is no proper HTTP is answered 4xx, closed, and does no harm."""
    client = server.connect(request_bytes)

    assert 400 <= client.answer().status < 500
    assert client.rest() == b""
    assert "Traceback" not in server.log


ODD = {
    "HTTP/1.0": (b"GET /echo HTTP/1.0\r\n\r\n", 200),
    "a whole URL": (b"GET http://test/echo?a=b HTTP/1.1\r\nHost: test\r\n\r\n", 200),
    "a whole URL without a path": (b"GET http://test HTTP/1.1\r\nHost: test\r\n\r\n", 404),
    "a bad URL": (b"GET http://[::1 HTTP/1.1\r\nHost: test\r\n\r\n", 404),
    "a path that is no UTF-8": (b"GET /%ff%00 HTTP/1.1\r\nHost: test\r\n\r\n", 404),
    "a host that is none": (b"GET /echo HTTP/1.1\r\nHost: a b[\xe9\r\n\r\n", 200),
    "OPTIONS *": (b"OPTIONS * HTTP/1.1\r\nHost: test\r\n\r\n", 404),
    "CONNECT": (b"CONNECT test:443 HTTP/1.1\r\nHost: test\r\n\r\n", 404),
    "a wrong method": (b"BREW /echo HTTP/1.1\r\nHost: test\r\n\r\n", 405),
    "a WebSocket": (
        b"GET /echo HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
        400,
    ),
    "an unknown expectation": (b"GET /echo HTTP/1.1\r\nHost: test\r\nExpect: more\r\n\r\n", 200),
    "a media type that is none": (
        b"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Type: \xff; charset=\xff\r\n"
        b"Content-Length: 1\r\n\r\nx",
        200,
    ),
}


@pytest.mark.parametrize(("request_bytes", "status"), ODD.values(), ids=ODD.keys())
def test_odd_request_is_answered(server: Server, request_bytes: bytes, status: int) -> None:
    """What is rare, but no offence against HTTP, is answered, and never with 5xx."""
    assert server.connect(request_bytes).answer().status == status
    assert "Traceback" not in server.log


def test_body_over_the_limit_is_refused_before_it_is_sent(server: Server) -> None:
    """A length over the limit is enough for 413; the client is not even told to go on."""
    client = server.connect(
        b"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 65537\r\n"
        b"Expect: 100-continue\r\n\r\n"
    )

    answer = client.answer()

    assert (answer.status, answer.json) == (413, {"error": "the body is too large"})
    assert answer.headers["Connection"] == "close"
    assert client.rest() == b""


def test_endless_chunks_are_refused(server: Server) -> None:
    """A body without a length is answered 413 as soon as it is over the limit, and closed."""
    client = server.connect(
        b"POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    with contextlib.suppress(ConnectionError):
        for _ in range(1000):
            client.send(b"1000\r\n" + b"x" * 0x1000 + b"\r\n")

    assert client.answer().status == 413
    client.rest()


def test_body_of_the_limit_is_read(server: Server) -> None:
    """The limit is the largest body that is taken, with a length and in chunks."""
    whole = server.ask("POST", "/echo", b"x" * 65536)
    client = server.connect(
        b"POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    client.send(b"10000\r\n" + b"x" * 0x10000 + b"\r\n0\r\n\r\n")
    chunked = client.answer()

    assert whole.json["body"] == chunked.json["body"] == "x" * 65536
    assert whole.json["CONTENT_LENGTH"] == chunked.json["CONTENT_LENGTH"] == "65536"
    assert "HTTP_TRANSFER_ENCODING" not in chunked.json


CHUNKED = b"POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n"

#: Whole requests within all limits but one: how much surrounds the body.
SPENDTHRIFT = {
    "60,000 chunks of one byte": CHUNKED + b"\r\n" + b"1\r\nx\r\n" * 60000 + b"0\r\n\r\n",
    "chunk extensions": CHUNKED
    + b"\r\n"
    + (b"1;a=" + b"b" * 4000 + b"\r\nx\r\n") * 20
    + b"0\r\n\r\n",
    "chunk sizes with zeros": CHUNKED + b"\r\n" + (b"0" * 4000 + b"1\r\nx\r\n") * 20 + b"0\r\n\r\n",
    "a chunk size with 40,000 zeros": CHUNKED
    + b"\r\n"
    + b"0" * 40000
    + b"1\r\nx\r\n"
    + b"0\r\n\r\n",
    "trailers": CHUNKED + b"\r\n0\r\n" + (b"X: " + b"x" * 3000 + b"\r\n") * 20 + b"\r\n",
    "headers": CHUNKED + (b"X: " + b"x" * 3000 + b"\r\n") * 20 + b"\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("request_bytes", SPENDTHRIFT.values(), ids=SPENDTHRIFT.keys())
def test_request_of_little_but_framing_is_refused(server: Server, request_bytes: bytes) -> None:
    """What surrounds a body is bounded like the body: it costs the event loop more."""
    client = server.connect()
    with contextlib.suppress(ConnectionError):
        client.send(request_bytes)

    answer = client.answer()

    assert (answer.status, answer.headers["Connection"]) == (400, "close")
    assert client.rest() == b""


def test_large_body_in_small_chunks_is_read(serve: Serve) -> None:
    """The bound on framing does not limit the body: 16 MiB may come as proxies send them."""
    server = serve(max_body_bytes=16 * 1024 * 1024)
    client = server.connect(CHUNKED + b"\r\n")
    for _ in range(4096):
        client.send(b"1000\r\n" + b"x" * 0x1000 + b"\r\n")
    client.send(b"0\r\n\r\n")

    assert client.answer().json["CONTENT_LENGTH"] == "16777216"


def test_refused_client_may_send_its_body(server: Server) -> None:
    """Closing on unread bytes would take the answer back, on some systems before it was read."""
    client = server.connect(b"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 1048576\r\n\r\n")
    answer = client.answer()
    for _ in range(16):
        client.send(b"x" * 65536)

    assert answer.status == 413
    assert client.rest() == b""


def test_what_is_discarded_after_a_refusal_is_bounded(server: Server) -> None:
    """A client that goes on sending is cut off after a bounded number of reads."""
    client = server.connect(
        b"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 9999999999\r\n\r\n"
    )
    # uvloop reads up to 256 KiB at a time; the rest was in buffers of the kernel.
    most, sent = LINGER_READS * 262_144 + 20_000_000, 0
    with contextlib.suppress(ConnectionError):
        while sent < most:
            client.send(b"x" * 65536)
            sent += 65536

    assert sent < most


def test_refused_client_that_stays_is_closed(serve: Serve) -> None:
    """A client that neither sends nor closes does not keep its place."""
    server = serve("--workers", "1")
    idle = server.connect()
    worker = int(idle.ask("GET", "/pid").body)
    before = sockets_of(worker)

    client = server.connect(MALFORMED["no HTTP"])

    assert client.answer().status == 400
    assert client.rest() == b""
    wait_for(lambda: sockets_of(worker) == before)


def sockets_of(pid: int) -> int:
    """Return how many sockets a process has open."""
    links = []
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            links.append(str(file.readlink()))
    return sum(link.startswith("socket:") for link in links)


def test_client_that_asks_first_is_told_to_go_on(server: Server) -> None:
    """Expect: 100-continue gets its 100, and then its answer."""
    client = server.connect(
        b"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
    )
    told = client.sock.recv(25)
    client.send(b"hello")

    assert told == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert client.answer().json["body"] == "hello"


def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    """Requests sent without waiting get their answers one after the other."""
    client = server.connect(b"GET /echo?1 HTTP/1.1\r\nHost: test\r\n\r\n" * 2)
    first = client.sock.recv(65536)
    received = first + (b"" if first.count(b"HTTP/1.1 200 OK") == 2 else client.sock.recv(65536))

    assert received.count(b"HTTP/1.1 200 OK") == 2


def test_head_has_no_body(server: Server) -> None:
    """HEAD gets the headers of GET."""
    client = server.connect()
    head = client.ask("HEAD", "/echo")
    again = client.ask("GET", "/echo")

    assert (head.status, head.body) == (200, b"")
    assert again.status == 200


def test_environment_is_what_wsgi_says(server: Server) -> None:
    """Bytes become latin-1 text, headers of one name are joined, what has an underscore is none."""
    client = server.connect(
        b"POST /echo?q=%C3%A9&r=a HTTP/1.1\r\nHost: test:80\r\nX-Two: 1\r\nX-Two: \xe9\r\n"
        b"Stripe_Signature: a\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nhi"
    )
    environ = client.answer().json
    expected = {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/echo",
        "QUERY_STRING": "q=%C3%A9&r=a",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": str(server.port),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "REMOTE_PORT": str(client.sock.getsockname()[1]),
        "HTTP_HOST": "test:80",
        "HTTP_X_TWO": "1,\u00e9",
        "CONTENT_TYPE": "text/plain",
        "CONTENT_LENGTH": "2",
        "wsgi.url_scheme": "http",
        "body": "hi",
    }

    assert {key: environ.get(key) for key in expected} == expected
    assert "HTTP_STRIPE_SIGNATURE" not in environ


#: Seconds in which a process that does not wait for its callbacks would have ended.
ENOUGH_TO_LEAVE = 5 * TICK_SECONDS


def test_stop_lets_callbacks_end_and_turns_away_the_rest(serve: Serve) -> None:
    """SIGTERM: nobody is accepted, who is connected gets 503, who is running gets an answer."""
    server = serve("--workers", "1")
    connected = server.connect()
    assert connected.ask("GET", "/echo").status == 200
    callback = server.hold("running")

    server.process.send_signal(signal.SIGTERM)
    wait_for(server.refuses)
    turned_away = connected.ask("POST", "/webhook")
    time.sleep(ENOUGH_TO_LEAVE)
    server.release("running")

    assert (turned_away.status, turned_away.headers["Retry-After"]) == (503, "1")
    assert turned_away.headers["Connection"] == "close"
    assert connected.rest() == b""
    assert (callback.result(DEADLINE).status, callback.result().json) == (200, {"held": "running"})
    assert server.process.wait(DEADLINE) == 0


def test_stop_waits_for_a_callback_whose_client_has_left(serve: Serve) -> None:
    """What runs is let to its end even when nobody awaits its answer."""
    server = serve("--workers", "1")
    gone = server.connect(b"POST /hold/orphan HTTP/1.1\r\nHost: test\r\n\r\n")
    wait_for((server.folder / "orphan.begun").exists)
    gone.close()

    server.process.send_signal(signal.SIGTERM)
    wait_for(server.refuses)
    time.sleep(ENOUGH_TO_LEAVE)
    server.release("orphan")

    assert server.process.wait(DEADLINE) == 0
    assert server.ended("orphan")


def test_stop_does_not_wait_for_idle_or_slow_clients(serve: Serve) -> None:
    """Connections without a whole request do not keep a stopping process."""
    server = serve("--workers", "1", "--graceful-timeout", "600")
    idle = server.connect()
    assert idle.ask("GET", "/echo").status == 200
    for sent in SLOW.values():
        server.connect(sent)

    assert server.stop() == 0


def test_stop_does_not_wait_for_ever(serve: Serve) -> None:
    """A callback that does not end in the grace period does not keep the process, and is logged."""
    server = serve("--workers", "1", "--graceful-timeout", "2")
    callback = server.hold("endless")

    assert server.stop() == 0
    with pytest.raises(ConnectionError):
        callback.result(DEADLINE)
    assert "Leaving while requests are running: 1" in server.log
    assert "SIGKILL" not in server.log


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
def test_quick_stop_waits_for_nothing(serve: Serve, how: signal.Signals) -> None:
    """Ctrl-C ends the service at once, whatever runs."""
    server = serve("--workers", "1", "--graceful-timeout", "600")
    callback = server.hold("endless")

    assert server.stop(how) == 0
    with pytest.raises(ConnectionError):
        callback.result(DEADLINE)


@pytest.mark.parametrize("early", ["SIGTERM", "SIGINT", "SIGQUIT"])
@pytest.mark.parametrize("hook", ["post_fork", "post_worker_init"])
def test_stop_that_comes_while_a_worker_starts_is_not_lost(
    serve: Serve, tmp_path: Path, early: str, hook: str
) -> None:
    """A worker that is told to stop before its event loop runs stops, and at once.

    gunicorn only queues such a signal, and uvloop loses it. The worker would be killed at the end
    of the grace period.
    """
    config = tmp_path / "early.conf.py"
    config.write_text(
        textwrap.dedent(f"""
        import os, pathlib, signal

        exec(pathlib.Path({str(CONFIG)!r}).read_text())
        hand_over = post_fork

        def post_worker_init(worker):
            if {hook!r} == "post_worker_init" and worker.age == 1:
                os.kill(os.getpid(), signal.{early})

        def post_fork(server, worker):
            if {hook!r} == "post_fork" and worker.age == 1:
                os.kill(os.getpid(), signal.SIGHUP)  # of no matter, and before it
                os.kill(os.getpid(), signal.{early})
            hand_over(server, worker)
        """)
    )
    server = serve("--workers", "1", config=config)

    wait_for(lambda: server.log.count("Booting worker") == 2)
    assert server.ask("GET", "/pid").status == 200


def test_killed_worker_is_replaced(serve: Serve) -> None:
    """After SIGKILL of a worker another one serves."""
    server = serve("--workers", "1")
    pid = server.ask("GET", "/pid").body

    os.kill(int(pid), signal.SIGKILL)

    def another_answers() -> bool:
        with contextlib.suppress(ConnectionError):  # the one that is dying may still accept
            return server.ask("GET", "/pid").body != pid
        return False

    wait_for(another_answers)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="the system does not say what is loaded")
def test_workers_have_the_faster_event_loop(serve: Serve) -> None:
    """What is installed for it is used."""
    server = serve("--workers", "1")

    pid = server.ask("GET", "/pid").body.decode()
    assert "/uvloop/" in Path(f"/proc/{pid}/maps").read_text(encoding="utf-8")


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system has no such call")
def test_each_worker_stays_on_a_processor_of_its_own(serve: Serve) -> None:
    """With a worker for each processor none shares one, nor after one was killed and replaced."""
    usable = os.sched_getaffinity(0)
    server = serve("--workers", str(len(usable)))

    def is_spread() -> bool:
        with contextlib.suppress(ProcessLookupError):
            places = [os.sched_getaffinity(pid) for pid in server.workers]
            return sorted(map(sorted, places)) == [[each] for each in sorted(usable)]
        return False

    wait_for(is_spread)
    killed = server.workers[-1]
    os.kill(killed, signal.SIGKILL)
    wait_for(lambda: killed not in server.workers and is_spread())


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="the system has no such policy")
def test_threads_of_callbacks_give_way_to_the_event_loop(serve: Serve) -> None:
    """Health checks and heartbeats are the loop's: it takes the processor from who computes."""
    server = serve("--workers", str(len(os.sched_getaffinity(0))))
    assert server.ask("POST", "/echo").status == 200

    def policies(pid: int) -> list[int]:
        """Return the policy of the loop, and those of the other threads."""
        threads = sorted(int(path.name) for path in Path(f"/proc/{pid}/task").iterdir())
        return [os.sched_getscheduler(thread) for thread in threads]

    loops = [policies(pid)[0] for pid in server.workers]
    assert loops == [os.SCHED_OTHER] * len(loops)
    wait_for(lambda: any(os.SCHED_BATCH in policies(pid)[1:] for pid in server.workers))


@pytest.mark.parametrize(
    ("taken", "workers", "chosen"),
    [
        ([], 3, 4),
        ([4], 3, 5),
        ([4, 5], 3, 7),
        ([4, 7], 3, 5),  # the one that the killed worker had
        ([None, None], 3, 4),
        ([4, 5, 7], 6, 4),
        ([4, 5, 7, 4], 6, 5),
        ([], 1, None),  # the operating system knows better
        ([], 2, None),
        ([], 4, None),
    ],
)
def test_next_worker_gets_the_processor_that_fewest_have(
    monkeypatch: pytest.MonkeyPatch,
    taken: list[int | None],
    workers: int,
    chosen: int | None,
) -> None:
    """A worker gets a processor only where all processors get as many."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {7, 4, 5}, raising=False)

    assert choose_processor(taken, workers) == chosen


def test_no_processor_is_chosen_where_none_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not every operating system lets a process choose."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)

    assert choose_processor([], 2) is None


def test_worker_does_not_outlive_its_arbiter(serve: Serve) -> None:
    """When the arbiter is killed, nobody goes on listening."""
    server = serve()
    assert server.deliver() == 200

    assert server.stop(signal.SIGKILL) == -signal.SIGKILL

    wait_for(server.refuses)


def test_a_burst_of_connections_is_shared(serve: Serve) -> None:
    """No worker takes all connections that are opened at once: each has its threads."""
    server = serve()
    wait_for(lambda: len({server.ask("GET", "/pid").body for _ in range(20)}) == 2)

    clients = [server.connect() for _ in range(100)]

    assert len({client.ask("GET", "/pid").body for client in clients}) == 2


def test_service_runs_under_gunicorn(tmp_path: Path) -> None:
    """Gunicorn without any argument serves the real application and ends with 0."""
    command = [sys.executable, "-m", "gunicorn", "--bind", "127.0.0.1:0"]
    with started(command, tmp_path, service_environment(tmp_path)) as server:
        assert server.ask("GET", "/healthz").status == 200
        assert server.ask("POST", "/webhook").status == 400
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"STRIPE_WEBHOOK_SECRET": "nonsense"}, "STRIPE_WEBHOOK_SECRET"),
        ({"HANDLERS_PACKAGE": "no_such_package"}, "HANDLERS_PACKAGE"),
    ],
    ids=["settings", "handlers"],
)
def test_wrong_start_ends_with_its_message_alone(
    tmp_path: Path, wrong: dict[str, str], problem: str
) -> None:
    """What is wrong at start is all that is said, and the exit status is not zero."""
    ended = subprocess.run(
        [sys.executable, "-m", "gunicorn"],
        cwd=ROOT,
        env=service_environment(tmp_path) | wrong,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )

    assert (ended.returncode, ended.stdout) == (1, "")
    assert problem in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "gunicorn" not in ended.stderr


def call(bridge: Bridge, *received: dict[str, Any]) -> list[dict[str, Any]]:
    """Serve one POST on a loop of its own, and return what was sent."""
    sent: list[dict[str, Any]] = []
    messages = iter(received)
    scope: dict[str, Any] = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "raw_path": b"/",
        "query_string": b"",
        "root_path": "",
        "headers": [],
        "server": None,
        "client": None,
    }

    async def receive() -> dict[str, Any]:
        return next(messages)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(bridge(scope, receive, send))
    return sent


def make_bridge(wsgi_app: WSGIApplication) -> Bridge:
    """Return a bridge for ``wsgi_app``."""
    return Bridge(wsgi_app, threads=1, max_body_bytes=10, stopping=threading.Event())


WHOLE = {"type": "http.request", "body": b"", "more_body": False}


def test_all_forms_of_a_wsgi_answer_are_sent() -> None:
    """What is written and what is yielded are one body; the iterable is closed after its use."""
    closed = []

    def wsgi_app(_environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        write = start_response("201 Created", [("X-Name", "\u00e9")])
        write(b"written, ")
        try:
            yield b"yielded"
        finally:
            closed.append(True)

    start, body = call(make_bridge(wsgi_app), WHOLE)

    assert (start["status"], start["headers"]) == (201, [(b"X-Name", b"\xe9")])
    assert body["body"] == b"written, yielded"
    assert closed


def test_wsgi_answer_may_be_a_list() -> None:
    """An iterable without close() is as good."""

    def wsgi_app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [])
        return [environ["SERVER_NAME"].encode(), environ["REMOTE_ADDR"].encode()]

    assert call(make_bridge(wsgi_app), WHOLE)[1]["body"] == b"localhost"


def test_request_that_is_not_complete_is_not_run() -> None:
    """When the connection ends in the middle of the body, nothing is called and nothing sent."""
    bridge = make_bridge(lambda _environ, _start_response: pytest.fail("it was run"))
    part = {"type": "http.request", "body": b"x", "more_body": True}

    with pytest.raises(asyncio.CancelledError):
        call(bridge, part, {"type": "http.disconnect"})
    assert bridge.unfinished == 0


def test_healthz_does_not_wait_for_readyz() -> None:
    """While the inbox is waited for, the container is not taken for dead and restarted."""
    begun, go = threading.Event(), threading.Event()

    def slow_inbox(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        if environ["PATH_INFO"] == "/readyz":
            begun.set()
            go.wait(DEADLINE)
        start_response("200 OK", [])
        return [b"ok"]

    bridge = Bridge(slow_inbox, threads=1, max_body_bytes=10, stopping=threading.Event())

    async def ask() -> None:
        ready = asyncio.create_task(get(bridge, "/readyz"))
        await asyncio.to_thread(begun.wait, DEADLINE)
        assert await get(bridge, "/healthz") == b"ok"
        assert not ready.done()
        go.set()
        assert await ready == b"ok"

    asyncio.run(ask())


async def get(bridge: Bridge, path: str) -> bytes:
    """GET a path from the ASGI application, and return the body of the answer."""
    sent: list[dict[str, Any]] = []
    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "http_version": "1.1",
        "scheme": "http",
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 1),
        "headers": [],
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await bridge(scope, receive, send)
    body: bytes = sent[-1]["body"]
    return body


def test_results_that_wait_are_waited_for() -> None:
    """A stop counts what outlives its request: the success that the inbox could not take yet."""
    waiting = [1, 0]
    bridge = Bridge(
        Flask("tiny"),
        threads=1,
        max_body_bytes=10,
        stopping=threading.Event(),
        background=Background(unfinished=lambda: waiting.pop(0)),
    )
    assert (bridge.unfinished, bridge.unfinished) == (1, 0)
