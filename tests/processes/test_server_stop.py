"""How the server stops, with the real gunicorn."""

from __future__ import annotations

import signal
import textwrap
import time
from pathlib import Path

import pytest

from app.web.gunicorn_worker import TICK_SECONDS
from tests.support.gunicorn_server import CONFIG, DEADLINE, SLOW, Serve
from tests.support.waiting import wait_for

#: A process that does not wait for its callbacks would exit within these seconds.
EXIT_SECONDS = 5 * TICK_SECONDS


def test_stop_waits_for_callbacks_and_refuses_new_requests(serve: Serve) -> None:
    """SIGTERM: no connection is accepted, new requests get 503, running ones their response."""
    server = serve("--workers", "1")
    connected = server.connect()
    assert connected.ask("GET", "/echo").status == 200
    callback = server.hold("running")

    server.process.send_signal(signal.SIGTERM)
    wait_for(server.refuses, DEADLINE)
    refused = connected.ask("POST", "/webhook")
    time.sleep(EXIT_SECONDS)
    server.release("running")

    assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
    assert refused.headers["Connection"] == "close"
    assert connected.rest() == b""
    assert (callback.result(DEADLINE).status, callback.result().json) == (200, {"held": "running"})
    assert server.process.wait(DEADLINE) == 0
    assert server.refusals() == [(503, "stopping")]


def test_stop_waits_for_a_callback_after_a_disconnect(serve: Serve) -> None:
    """A running callback ends even after its client has disconnected."""
    server = serve("--workers", "1")
    gone = server.connect(b"POST /hold/mine HTTP/1.1\r\nHost: test\r\n\r\n")
    server.wait_for_start("mine")
    gone.close()

    server.process.send_signal(signal.SIGTERM)
    wait_for(server.refuses, DEADLINE)
    time.sleep(EXIT_SECONDS)
    server.release("mine")

    assert server.process.wait(DEADLINE) == 0
    assert server.has_ended("mine")


def test_stop_does_not_wait_for_idle_or_slow_clients(serve: Serve) -> None:
    """Connections without a complete request do not delay a stop."""
    server = serve("--workers", "1", "--graceful-timeout", "600")
    idle = server.connect()
    assert idle.ask("GET", "/echo").status == 200
    for sent in SLOW.values():
        server.connect(sent)

    assert server.stop() == 0


def test_stop_ends_with_the_grace_period(serve: Serve) -> None:
    """A callback that outlasts the grace period is logged. The process exits by itself."""
    server = serve("--workers", "1", "--graceful-timeout", "2")
    callback = server.hold("endless")

    assert server.stop() == 0
    with pytest.raises(ConnectionError):
        callback.result(DEADLINE)
    (line,) = server.logged("stopped_unfinished")
    assert (line["level"], line["requests"]) == ("warning", 1)
    assert "SIGKILL" not in server.log


@pytest.mark.measured
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
def test_quick_stop_does_not_wait(serve: Serve, how: signal.Signals) -> None:
    """SIGINT and SIGQUIT end the service at once, even while a callback runs."""
    server = serve("--workers", "1", "--graceful-timeout", "600")
    callback = server.hold("endless")

    assert server.stop(how) == 0
    with pytest.raises(ConnectionError):
        callback.result(DEADLINE)


@pytest.mark.measured
@pytest.mark.parametrize("early", ["SIGTERM", "SIGINT", "SIGQUIT"])
@pytest.mark.parametrize("hook", ["post_fork", "post_worker_init"])
def test_stop_signal_during_the_start_is_not_lost(
    serve: Serve, tmp_path: Path, early: str, hook: str
) -> None:
    """A worker that gets a stop signal before its event loop runs stops at once.

    gunicorn only queues such a signal, and uvloop loses it. The arbiter would kill the worker at
    the end of the grace period.
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
                os.kill(os.getpid(), signal.SIGHUP)  # no stop signal, and before one
                os.kill(os.getpid(), signal.{early})
            hand_over(server, worker)
        """)
    )
    server = serve("--workers", "1", config=config)

    wait_for(lambda: server.log.count("Booting worker") == 2, DEADLINE)
    assert server.ask("GET", "/pid").status == 200


@pytest.mark.measured
def test_worker_does_not_outlive_its_arbiter(serve: Serve) -> None:
    """When the arbiter is killed, its workers stop listening."""
    server = serve()
    assert server.deliver() == 200

    assert server.stop(signal.SIGKILL) == -signal.SIGKILL

    wait_for(server.refuses, DEADLINE)
