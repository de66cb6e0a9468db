"""Callbacks in the pool of threads, with the real gunicorn."""

from __future__ import annotations

import resource
import time
from pathlib import Path

import pytest

from tests.support.gunicorn_server import DEADLINE, Serve
from tests.support.services import skip_without_prlimit
from tests.support.waiting import wait_for


def test_cpu_bound_callback_does_not_delay_deliveries(serve: Serve) -> None:
    """A callback that computes in Python does not block the other deliveries of its process."""
    server = serve("--workers", "1")
    burning = server.hold("computing", how="burn")

    assert [server.deliver() for _ in range(10)] == [200] * 10
    assert not burning.done()
    server.release("computing")
    assert burning.result(DEADLINE).status == 200


def test_callbacks_at_once_are_bounded(serve: Serve) -> None:
    """With two threads the third callback waits in the queue. A health check does not."""
    server = serve("--workers", "1", threads=2)
    running = [server.hold("first"), server.hold("second")]
    third = server.pool.submit(server.ask, "POST", "/hold/third")

    assert server.ask("GET", "/pid").status == 200
    assert not server.has_started("third")
    for name in ("first", "second", "third"):
        server.release(name)
    assert [call.result(DEADLINE).status for call in [*running, third]] == [200] * 3


def test_long_callback_does_not_stop_the_heartbeat(serve: Serve) -> None:
    """A callback may run longer than gunicorn's ``timeout``, which applies to the event loop."""
    server = serve("--workers", "1", "--timeout", "1")
    pid = server.pid()
    callback = server.hold("long")
    time.sleep(3)  # three timeouts; no event shows that nothing happens

    server.release("long")

    assert callback.result(DEADLINE).status == 200
    assert server.pid() == pid


def test_callback_continues_after_a_disconnect(serve: Serve) -> None:
    """A disconnect does not stop the running callback, and is not logged as an error."""
    server = serve("--workers", "1", threads=1)
    gone = server.connect(b"POST /hold/mine HTTP/1.1\r\nHost: test\r\n\r\n")
    server.wait_for_start("mine")

    gone.close()
    server.release("mine")

    wait_for(lambda: server.has_ended("mine"), DEADLINE)
    assert server.deliver() == 200
    assert "Traceback" not in server.log


def test_queued_request_is_dropped_on_a_disconnect(serve: Serve) -> None:
    """A queued request of a disconnected client is not run. Stripe delivers it again."""
    server = serve("--workers", "1", threads=1)
    callback = server.hold("first")
    gone = server.connect(b"POST /hold/queued HTTP/1.1\r\nHost: test\r\n\r\n")
    assert (
        server.ask("GET", "/pid").status == 200
    )  # one event loop: it has read that request before

    gone.close()
    assert server.ask("GET", "/pid").status == 200  # and has seen the disconnect
    server.release("first")

    assert callback.result(DEADLINE).status == 200
    assert server.deliver() == 200
    assert not server.has_started("queued")


def test_callback_that_exits_does_not_end_the_process(serve: Serve) -> None:
    """sys.exit() in a callback gets 500 and is logged, like every exception."""
    server = serve("--workers", "1")
    pid = server.pid()

    response = server.ask("POST", "/exit")

    assert (response.status, response.json) == (500, {"error": "internal server error"})
    assert "SystemExit: 3" in server.log
    assert server.pid() == pid


@pytest.mark.measured
def test_request_gets_503_when_no_thread_can_start(serve: Serve) -> None:
    """At the limit of threads, requests get 503. As soon as a thread can start, they get 200."""
    skip_without_prlimit()
    server = serve("--workers", "1")
    client = server.connect()
    worker = int(client.ask("GET", "/pid").body)
    limits = resource.prlimit(worker, resource.RLIMIT_AS)
    # Too little for the stack of a thread.
    size = int(Path(f"/proc/{worker}/statm").read_text().split()[0]) * resource.getpagesize()
    resource.prlimit(worker, resource.RLIMIT_AS, (size + 1_500_000, limits[1]))

    refused = client.ask("POST", "/echo")
    assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
    assert refused.json == {"error": "the service has no thread left"}
    assert client.ask("GET", "/pid").status == 200
    assert "can't start new thread" in server.log
    resource.prlimit(worker, resource.RLIMIT_AS, limits)
    assert client.ask("POST", "/echo", b"x").json["body"] == "x"
