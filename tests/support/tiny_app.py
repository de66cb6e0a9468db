"""A small application for the tests of the server: callbacks that a test holds and releases."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from flask import Flask, Response, jsonify, request
from stripe import WebhookSignature

from app import log
from app.web.bridge import Bridge

SECRET = "whsec_fake_for_tests"
PROGRAM = "import os; print(sorted(os.sched_getaffinity(0)))"

app = Flask("tiny")


def load(folder: str, threads: int, read_seconds: float, max_body_bytes: int) -> Bridge:
    """Return the application, whose callbacks write files to ``folder``."""
    log.configure("info", "json")
    app.config["folder"] = Path(folder)
    return Bridge(
        app,
        threads=threads,
        max_body_bytes=max_body_bytes,
        stopping=threading.Event(),
        read_seconds=read_seconds,
    )


@app.post("/webhook")
def webhook() -> Response:
    """Check a signature, like the service."""
    body, signature = request.get_data(as_text=True), request.headers["Stripe-Signature"]
    WebhookSignature.verify_header(body, signature, SECRET, 300)
    return jsonify(outcome="handled")


@app.post("/hold/<name>")
def hold(name: str) -> Response:
    """Run until it is released."""
    return run_until_released(name, lambda: time.sleep(0.01))


@app.post("/burn/<name>")
def burn(name: str) -> Response:
    """Compute until it is released."""
    return run_until_released(name, lambda: sum(range(100_000)))


def run_until_released(name: str, step: Callable[[], object]) -> Response:
    """Repeat ``step`` until the file that releases the callback exists."""
    folder: Path = app.config["folder"]
    (folder / f"{name}.begun").touch()
    while not (folder / f"{name}.go").exists():
        step()
    (folder / f"{name}.ended").touch()
    return jsonify(held=name)


@app.route("/echo", methods=["GET", "HEAD", "POST"])
def echo() -> Response:
    """Return the WSGI environment and the body."""
    texts = {name: value for name, value in request.environ.items() if isinstance(value, str)}
    return jsonify(texts | {"body": request.get_data(as_text=True)})


@app.post("/exit")
def leave() -> Response:
    """Exit, as a callback should not."""
    sys.exit(3)


@app.get("/odd-header")
def odd_header() -> Response:
    """Return a header that gunicorn does not send."""
    return Response("", headers={"X-Odd": "\x01"})


@app.get("/large")
def large() -> bytes:
    """Return more than the buffers of a socket hold."""
    return b"x" * 20_000_000


@app.get("/pid")
def pid() -> str:
    """Return the process id of the worker."""
    return str(os.getpid())


@app.get("/collects")
def collects() -> str:
    """Return the process id of the worker if it collects garbage."""
    return str(os.getpid() if gc.isenabled() else 0)


@app.post("/start/<how>")
def start(how: str) -> Response:
    """Start a program or a thread. Return the CPUs of this thread before that, and its CPUs."""
    before = sorted(os.sched_getaffinity(0))
    out: Path = app.config["folder"] / "affinity"
    STARTS[how](out)
    return jsonify(thread=before, program=json.loads(out.read_text(encoding="ascii")))


def note_affinity(out: Path) -> None:
    """Write the CPUs of this thread."""
    out.write_text(str(sorted(os.sched_getaffinity(0))), encoding="ascii")


def _subprocess(out: Path) -> None:
    with out.open("wb") as file:
        subprocess.run([sys.executable, "-c", PROGRAM], stdout=file, check=True)


def _posix_spawn(out: Path) -> None:
    to_file = [(os.POSIX_SPAWN_OPEN, 1, str(out), os.O_WRONLY | os.O_CREAT, 0o600)]
    program = [sys.executable, "-c", PROGRAM]
    os.waitpid(os.posix_spawn(program[0], program, os.environ, file_actions=to_file), 0)


def _system(out: Path) -> None:
    os.system(f"'{sys.executable}' -c '{PROGRAM}' > '{out}'")  # noqa: S605 - the test is about it


def _fork(out: Path) -> None:
    if os.fork() == 0:
        note_affinity(out)
        os._exit(0)
    os.wait()


def _thread(out: Path) -> None:
    thread = threading.Thread(target=note_affinity, args=[out])
    thread.start()
    thread.join()


def _multiprocessing(out: Path, method: str) -> None:
    process = multiprocessing.get_context(method).Process(target=note_affinity, args=[out])  # type: ignore[attr-defined] # the stubs know it for literals alone
    process.start()
    process.join()


STARTS: dict[str, Callable[[Path], None]] = {
    "subprocess": _subprocess,
    "posix_spawn": _posix_spawn,
    "system": _system,
    "fork": _fork,
    "thread": _thread,
    "spawn": lambda out: _multiprocessing(out, "spawn"),
    "forkserver": lambda out: _multiprocessing(out, "forkserver"),
}
