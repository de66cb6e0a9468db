"""The bound on the memory of large bodies, without a server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest

from app.web.body_budget import FREE_BYTES, WAITING_BODIES
from app.web.bridge import Bridge

THREADS = 1
LARGE = FREE_BYTES + 1000
#: Large bodies for which there is room.
MOST = WAITING_BODIES + THREADS
Messages = asyncio.Queue[dict[str, Any]]


class Client:
    """One client that sends its body in parts."""

    def __init__(self, bridge: Bridge) -> None:
        """Send the header."""
        self._messages: Messages = asyncio.Queue()
        self.sent: list[dict[str, Any]] = []
        self.task = asyncio.create_task(self._serve(bridge))

    def put(self, size: int, *, more: bool = True) -> None:
        """Send a part of the body."""
        self._messages.put_nowait({"type": "http.request", "body": b"x" * size, "more_body": more})

    async def send(self, size: int, *, more: bool = True) -> None:
        """Send a part of the body, and let the bridge read it."""
        self.put(size, more=more)
        await settle()

    @property
    def status(self) -> int | None:
        """The status of the response. None if there is none."""
        return self.sent[0]["status"] if self.sent else None

    async def _serve(self, bridge: Bridge) -> None:
        scope: dict[str, Any] = {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": "/",
            "raw_path": b"/",
            "query_string": b"",
            "root_path": "",
            "headers": [],
            "server": None,
            "client": None,
        }

        async def send(message: dict[str, Any]) -> None:
            self.sent.append(message)

        await bridge(scope, self._messages.get, send)


class Application:
    """A WSGI application that waits for the test, and notes the size of each body."""

    def __init__(self) -> None:
        """Start with no request."""
        self.sizes: list[int] = []
        self.go = threading.Event()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        """Answer when the test lets it."""
        self.sizes.append(len(environ["wsgi.input"].read()))
        self.go.wait(60)
        start_response("200 OK", [])
        return []


async def settle() -> None:
    """Let all other tasks go on."""
    for _ in range(5):
        await asyncio.sleep(0)


def run(test: Callable[[Bridge], Coroutine[Any, Any, None]], application: Application) -> None:
    """Run a test in an event loop, with a bridge for large bodies."""
    bridge = Bridge(application, threads=THREADS, max_body_bytes=LARGE, stopping=threading.Event())
    try:
        asyncio.run(test(bridge))
    finally:
        application.go.set()


def test_oldest_incomplete_body_is_dropped() -> None:
    """A large body that has no room makes the oldest incomplete one end with 503.

    Small bodies are not dropped, whenever they began.
    """

    async def test(bridge: Bridge) -> None:
        small = Client(bridge)
        await small.send(FREE_BYTES)
        slow = [Client(bridge) for _ in range(MOST)]
        for each in slow:
            await each.send(LARGE)
        assert {each.status for each in slow} == {None}

        delivery = Client(bridge)
        await delivery.send(LARGE, more=False)

        assert [each.status for each in slow] == [503, *[None] * (MOST - 1)]
        assert b"too many large bodies at once" in slow[0].sent[1]["body"]
        assert (small.status, delivery.status) == (None, None)
        application.go.set()
        await small.send(0, more=False)
        await asyncio.wait([delivery.task, small.task])
        assert (small.status, delivery.status) == (200, 200)
        for each in slow:
            each.task.cancel()
        await asyncio.wait([each.task for each in slow])

        # All room is free again.
        last = [Client(bridge) for _ in range(MOST)]
        for each in last:
            await each.send(LARGE)
        assert {each.status for each in last} == {None}
        for each in last:
            await each.send(0, more=False)
        await asyncio.wait([each.task for each in last])
        assert {each.status for each in last} == {200}

    application = Application()
    run(test, application)


def test_dropped_body_takes_nothing_more() -> None:
    """A part that arrives while its body is dropped gets no room: the newer body has it."""

    async def test(bridge: Bridge) -> None:
        slow = [Client(bridge) for _ in range(MOST)]
        for each in slow:
            await each.send(LARGE - 1)
        newer = Client(bridge)
        await newer.send(FREE_BYTES)
        newer.put(1000)
        slow[0].put(1)
        await settle()
        assert [each.status for each in slow] == [503, *[None] * (MOST - 1)]
        assert newer.status is None
        for each in [newer, *slow[1:]]:
            each.task.cancel()
        await asyncio.wait([each.task for each in [newer, *slow]])

    run(test, Application())


def test_complete_bodies_are_not_dropped() -> None:
    """While complete bodies that wait for a thread have all room, another large one gets 503."""

    async def test(bridge: Bridge) -> None:
        waiting = [Client(bridge) for _ in range(MOST)]
        for each in waiting:
            await each.send(LARGE, more=False)
        refused = Client(bridge)
        await refused.send(LARGE)
        assert refused.status == 503
        headers = dict(refused.sent[0]["headers"])
        assert headers[b"Retry-After"] == b"1"
        small = Client(bridge)
        await small.send(FREE_BYTES, more=False)

        application.go.set()
        await asyncio.wait([small.task, *(each.task for each in waiting)])
        assert {each.status for each in [small, *waiting]} == {200}

    application = Application()
    run(test, application)
    assert sorted(application.sizes) == [FREE_BYTES, *[LARGE] * MOST]


@pytest.mark.parametrize("size", [1, LARGE])
def test_client_that_leaves_gives_its_bytes_back(size: int) -> None:
    """After a disconnect within the body, other bodies have its room."""

    async def test(bridge: Bridge) -> None:
        for _ in range(MOST + 1):
            client = Client(bridge)
            await client.send(size)
            client.task.cancel()
            await asyncio.wait([client.task])
            assert client.status is None

    run(test, Application())


def test_smaller_limit_needs_no_room() -> None:
    """With a limit below the free bytes, no body is dropped."""
    application = Application()
    application.go.set()
    bridge = Bridge(application, threads=1, max_body_bytes=1024, stopping=threading.Event())

    async def test() -> None:
        clients = [Client(bridge) for _ in range(MOST + 10)]
        for each in clients:
            await each.send(1024)
        for each in clients:
            await each.send(0, more=False)
        await asyncio.wait([each.task for each in clients])
        assert {each.status for each in clients} == {200}

    asyncio.run(test())
