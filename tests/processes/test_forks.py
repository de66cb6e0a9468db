"""Callbacks that fork: a child keeps nothing of the service and cannot act for it."""

from __future__ import annotations

import contextlib
import http.client
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.services import (
    ACCEPTED,
    DEADLINE,
    FAILED,
    HANDLED,
    HANDLER,
    HOST,
    MODULE,
    ROOT,
    Lab,
    Service,
    find,
    is_alive,
    state,
)
from tests.support.waiting import wait_for

#: The id of an event names the act of the callback, before the number of the event.
FORKING = (
    HANDLER
    + """
    import multiprocessing, signal, sys
    import app

    def leave(status):
        raise SystemExit(status)

    def fail_in_child(error):
        raise error

    ENDS = {
        "returns": lambda: None,
        "raises": lambda: fail_in_child(RuntimeError("in the child")),
        "gives.up": lambda: fail_in_child(app.GiveUp("in the child")),
        "is.interrupted": lambda: fail_in_child(KeyboardInterrupt()),
        "exits.0": lambda: sys.exit(),
        "exits.3": lambda: sys.exit(3),
        "exits.word": lambda: sys.exit("a reason"),
        "_exits": lambda: os._exit(4),
    }
    plain = handle

    def handle(notif, client):
        how = notif.id.removeprefix("evt_")
        attempt = _current.get().claim.attempt
        if how in ENDS:
            note("start", notif, attempt)
            child = os.fork()
            if child == 0:
                return ENDS[how]()
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            note(f"child {status}", notif, attempt)
            note("end", notif, attempt)
        elif how == "stays":
            child = os.fork()
            if child == 0:
                wait()
                return None
            (FOLDER / "child").write_text(str(child))
        elif how == "process":
            child = multiprocessing.get_context("fork").Process(target=wait, daemon=False)
            child.start()
            (FOLDER / "child").write_text(str(child.pid))
        elif how == "terminates":
            for _ in range(20):
                child = multiprocessing.get_context("fork").Process(target=time.sleep, args=[999])
                child.start()
                child.terminate()
                child.join()
                note(f"child {child.exitcode}", notif, attempt)
        elif how == "handles":
            ready = multiprocessing.get_context("fork").Event()
            child = multiprocessing.get_context("fork").Process(target=exit_by_itself, args=[ready])
            child.start()
            ready.wait()
            child.terminate()
            child.join()
            note(f"child {child.exitcode}", notif, attempt)
        else:
            plain(notif, client)

    def exit_by_itself(ready):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
        ready.set()
        while True:
            time.sleep(1)

    def wait():
        while not (FOLDER / "go").exists():
            time.sleep(0.01)
"""
)

#: How each child ends, and the exit status that its parent sees.
ENDS = {
    "returns": 0,
    "raises": 1,
    "gives.up": 1,
    "is.interrupted": 1,
    "exits.0": 0,
    "exits.3": 3,
    "exits.word": 1,
    "_exits": 4,
}


@pytest.fixture
def modules() -> dict[str, str]:
    """A callback that forks."""
    return {MODULE: FORKING}


@pytest.fixture
def lab(lab: Lab) -> Iterator[Lab]:
    """Services whose callbacks fork. The forked processes end with the test."""
    yield lab
    (lab.package / "go").touch()


def start(lab: Lab, database_url: str, *options: str, processing: str = "inline") -> Service:
    """Start a service with one process."""
    return lab.start(database_url, *options, PROCESSING=processing, WEB_CONCURRENCY=1)


def run(service: Service, database_url: str, event_id: str, processing: str) -> None:
    """Deliver an event, and return when its callback has succeeded."""
    assert service.deliver(event_id).brief == (HANDLED if processing == "inline" else ACCEPTED)
    wait_for(lambda: find(database_url, event_id).state == "done", DEADLINE)
    assert state(database_url, event_id) == ("done", "handled", 1)


both_modes = pytest.mark.parametrize("processing", ["inline", "queue"])


# Both modes run the same lines of `app/runtime/forks.py`.
@pytest.mark.parametrize(
    "processing", [pytest.param("inline", marks=pytest.mark.measured), "queue"]
)
def test_child_ends_with_its_callback(lab: Lab, sqlite_url: str, processing: str) -> None:
    """However the child leaves the callback, only the parent records the result, once."""
    service = start(lab, sqlite_url, processing=processing)

    for how, status in ENDS.items():
        event_id = f"evt_{how}"
        run(service, sqlite_url, event_id, processing)
        assert lab.account(event_id) == [("start", 1), (f"child {status}", 1), ("end", 1)]
        assert len({entry.pid for entry in lab.journal(event_id)}) == 1
    # A worker writes the line of an attempt after its result is recorded.
    handled = '"outcome": "handled"'
    wait_for(lambda: service.log.count(handled) >= len(ENDS), DEADLINE)
    service.terminate()
    assert service.wait() == 0
    assert service.log.count(handled) == len(ENDS)
    assert service.log.count("RuntimeError: in the child") == 1
    assert "claim_lost" not in service.log


def test_child_of_a_worker_ends_with_its_callback(lab: Lab, sqlite_url: str) -> None:
    """The same holds for ``flask worker``."""
    service = lab.start(sqlite_url, PROCESSING="queue", WORKER_THREADS=0)
    worker = lab.start_worker(sqlite_url)

    for how, status in ENDS.items():
        run(service, sqlite_url, f"evt_{how}", "queue")
        assert lab.account(f"evt_{how}")[1:] == [(f"child {status}", 1), ("end", 1)]
    worker.terminate()
    assert worker.wait() == 0


def test_child_of_a_command_ends_with_its_callback(lab: Lab, sqlite_url: str) -> None:
    """The same holds for ``flask events retry``."""
    service = start(lab, sqlite_url)
    lab.tell("fail", "evt_1")
    assert service.deliver("evt_1").brief == FAILED
    (lab.package / f"{MODULE}.py").write_text(
        "import os\ndef handle(notif, client):\n    child = os.fork()\n"
        "    child and os.waitpid(child, 0)\n"
    )

    ended = subprocess.run(
        [sys.executable, "-m", "flask", "events", "retry", "evt_1", "--yes"],
        cwd=ROOT,
        env=lab.environment(DATABASE_URL=sqlite_url),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )

    assert (ended.returncode, ended.stdout.count("handled")) == (0, 1), ended
    assert state(sqlite_url, "evt_1") == ("done", "handled", 2)


@both_modes
@pytest.mark.parametrize("how", ["stays", "process"])
def test_child_that_outlives_the_service_keeps_none_of_its_sockets(
    lab: Lab, sqlite_url: str, processing: str, how: str
) -> None:
    """The next service can bind the port at once, and clients see the end of their connection."""
    service = start(lab, sqlite_url, "--graceful-timeout", "3", processing=processing)
    with contextlib.closing(
        http.client.HTTPConnection(HOST, service.port, timeout=DEADLINE)
    ) as client:
        client.request("GET", "/healthz")
        assert client.getresponse().read()
        run(service, sqlite_url, f"evt_{how}", processing)
        child = int((lab.package / "child").read_text())

        service.terminate()
        assert service.wait() == 0

        assert is_alive(child)
        assert client.sock.recv(1) == b""
    assert service.refuses()
    with contextlib.closing(socket.create_server((HOST, service.port))):
        pass
    (lab.package / "go").touch()
    wait_for(lambda: not is_alive(child), DEADLINE)


@both_modes
def test_signal_to_a_child_reaches_the_child_alone(
    lab: Lab, sqlite_url: str, processing: str
) -> None:
    """The parent's event loop shares the pipe on which Python announces a signal."""
    service = start(lab, sqlite_url, processing=processing)

    run(service, sqlite_url, "evt_terminates", processing)
    run(service, sqlite_url, "evt_handles", processing)

    assert lab.account("evt_terminates") == [(f"child {-signal.SIGTERM}", 1)] * 20
    assert lab.account("evt_handles") == [("child 5", 1)]
    run(service, sqlite_url, "evt_1", processing)
    assert len({entry.pid for entry in lab.journal()}) == 1


def test_signal_to_the_child_of_a_worker_reaches_the_child_alone(lab: Lab, sqlite_url: str) -> None:
    """The children do not inherit the signal handlers of ``flask worker``."""
    service = lab.start(sqlite_url, PROCESSING="queue", WORKER_THREADS=0)
    lab.start_worker(sqlite_url)

    run(service, sqlite_url, "evt_terminates", "queue")
    run(service, sqlite_url, "evt_1", "queue")

    assert lab.account("evt_terminates") == [(f"child {-signal.SIGTERM}", 1)] * 20
