"""The ASGI application that runs a WSGI application in threads, without a server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import pytest
from flask import Flask
from structlog.testing import capture_logs

from app.web import wsgi
from app.web.bridge import FORM_BYTES, Background, Bridge
from tests.conftest import Receiver

DEADLINE = 60.0

WHOLE = {"type": "http.request", "body": b"", "more_body": False}


def make_bridge(wsgi_app: WSGIApplication, **more: Any) -> Bridge:
    """Return a bridge for ``wsgi_app``."""
    return Bridge(wsgi_app, threads=1, max_body_bytes=10, stopping=threading.Event(), **more)


async def call(
    bridge: Bridge,
    *received: dict[str, Any],
    method: str = "POST",
    path: str = "/",
    headers: list[tuple[bytes, bytes]] | None = None,
) -> list[dict[str, Any]]:
    """Serve one request that arrives in these messages. Return the messages of its response."""
    sent: list[dict[str, Any]] = []
    messages = iter(received)
    scope: dict[str, Any] = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": headers or [],
        "server": None,
        "client": None,
    }

    async def receive() -> dict[str, Any]:
        return next(messages)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await bridge(scope, receive, send)
    return sent


def test_written_and_yielded_parts_are_one_body() -> None:
    """Parts from ``write`` and from the iterable are one body. The iterable is closed."""
    closed = []

    def wsgi_app(_environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        write = start_response("201 Created", [("X-Name", "\u00e9")])
        write(b"written, ")
        try:
            yield b"yielded"
        finally:
            closed.append(True)

    start, body = asyncio.run(call(make_bridge(wsgi_app), WHOLE))

    assert (start["status"], start["headers"]) == (201, [(b"X-Name", b"\xe9")])
    assert body["body"] == b"written, yielded"
    assert closed


def test_response_body_may_be_a_list() -> None:
    """The iterable needs no ``close``."""

    def wsgi_app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [])
        return [environ["SERVER_NAME"].encode(), environ["REMOTE_ADDR"].encode()]

    assert asyncio.run(call(make_bridge(wsgi_app), WHOLE))[1]["body"] == b"localhost"


def test_incomplete_request_is_not_run() -> None:
    """After a disconnect within the body, the application is not called and nothing is sent."""
    bridge = make_bridge(lambda _environ, _start_response: pytest.fail("it was run"))
    part = {"type": "http.request", "body": b"x", "more_body": True}

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(call(bridge, part, {"type": "http.disconnect"}))
    assert bridge.unfinished() == {"requests": 0}


def test_healthz_does_not_wait_for_readyz() -> None:
    """While /readyz waits for the inbox, /healthz answers, so the container is not restarted."""
    begun, go = threading.Event(), threading.Event()

    def slow_inbox(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        if environ["PATH_INFO"] == "/readyz":
            begun.set()
            go.wait(DEADLINE)
        start_response("200 OK", [])
        return [b"ok"]

    bridge = make_bridge(slow_inbox)

    async def get(path: str) -> object:
        return (await call(bridge, WHOLE, method="GET", path=path))[-1]["body"]

    async def ask() -> None:
        ready = asyncio.create_task(get("/readyz"))
        await asyncio.to_thread(begun.wait, DEADLINE)
        assert await get("/healthz") == b"ok"
        assert not ready.done()
        go.set()
        assert await ready == b"ok"

    asyncio.run(ask())


def test_health_check_during_a_stop_is_not_logged() -> None:
    """Each request gets 503 then. Only a delivery that is refused is worth a warning."""
    bridge = make_bridge(lambda _environ, _start_response: pytest.fail("it was run"))
    bridge.stopping.set()

    async def ask() -> list[Any]:
        methods = ("GET", "POST")
        return [(await call(bridge, WHOLE, method=method))[0]["status"] for method in methods]

    with capture_logs() as lines:
        assert asyncio.run(ask()) == [503, 503]
    assert [(line["reason"], line["status"]) for line in lines] == [("stopping", 503)]


def test_stop_waits_for_the_background() -> None:
    """Unfinished background work counts, such as a result that is not yet in the inbox."""
    background = Background(unfinished=lambda: {"unrecorded": 1})
    bridge = make_bridge(Flask("tiny"), background=background)

    assert bridge.unfinished() == {"requests": 0, "unrecorded": 1}


@pytest.mark.parametrize(
    ("slow", "quick"),
    [
        (("GET", "/ops/events"), ("GET", "/readyz")),
        (("GET", "/metrics"), ("GET", "/readyz")),
        (("POST", "/ops/events"), ("POST", "/webhook")),
        (("POST", "/ops/events"), ("GET", "/ops")),
        (("POST", "/webhook"), ("GET", "/ops")),
        (("POST", "/webhook"), ("POST", "/ops/pause")),
        # A proxy may encode the path, and a client may send a whole URL.
        (("GET", "/o%70s"), ("GET", "/readyz")),
        (("GET", "http://test/ops"), ("GET", "/readyz")),
    ],
)
def test_pages_and_forms_have_threads_of_their_own(
    slow: tuple[str, str], quick: tuple[str, str]
) -> None:
    """However many slow requests of one kind wait, the other kind is answered."""
    go = threading.Event()

    def wsgi_app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        if environ["HTTP_X"] == "slow":
            go.wait(DEADLINE)
        start_response("200 OK", [])
        return [environ["HTTP_X"].encode()]

    bridge = make_bridge(wsgi_app)

    async def ask(word: bytes, method: str, path: str) -> bytes:
        headers = [(b"x", word)]
        answer = await call(bridge, WHOLE, method=method, path=path, headers=headers)
        return bytes(answer[1]["body"])

    async def ask_both() -> list[bytes]:
        waiting = [asyncio.create_task(ask(b"slow", *slow)) for _ in range(5)]
        async with asyncio.timeout(DEADLINE):
            assert await ask(b"quick", *quick) == b"quick"
        assert bridge.unfinished() == {"requests": 5}
        go.set()
        return await asyncio.gather(*waiting)

    assert asyncio.run(ask_both()) == [b"slow"] * 5


@pytest.mark.parametrize("path", ["/hooks/ops", "/ops"])
def test_pages_have_their_threads_behind_a_prefix(path: str) -> None:
    """The prefix of a proxy is no part of the path, whether the proxy removes it or not."""
    scope = {"raw_path": path.encode(), "root_path": "/hooks/"}
    assert wsgi.path(scope) == "/ops"


@pytest.mark.parametrize("path", ["//ops", "///metrics", "/%2fops", "http://test//ops"])
def test_two_slashes_lead_to_no_page(make_receiver: Callable[..., Receiver], path: str) -> None:
    """A path that begins with two slashes is unknown, so no page runs in the wrong threads."""
    token = "0123456789abcdef-may-act-0123456789"
    app = make_receiver(ops_token=token).client.application
    headers = [(b"authorization", b"Bearer " + token.encode())]

    def status(path: str) -> int:
        answer = asyncio.run(
            call(make_bridge(app), WHOLE, method="GET", path=path, headers=headers)
        )
        return int(answer[0]["status"])

    assert (status(path), status("/ops")) == (404, 200)


def test_forms_have_a_limit_of_their_own() -> None:
    """A form may be larger than the limit of a delivery, and has one of its own."""
    sizes = []

    def wsgi_app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        sizes.append(len(environ["wsgi.input"].read()))
        start_response("200 OK", [])
        return []

    bridge = make_bridge(wsgi_app)

    def post(size: int) -> None:
        message = {**WHOLE, "body": b"x" * size}
        asyncio.run(call(bridge, message, path="/ops/pause"))

    post(FORM_BYTES)
    with pytest.raises(asyncio.CancelledError):
        post(FORM_BYTES + 1)
    assert sizes == [FORM_BYTES]
