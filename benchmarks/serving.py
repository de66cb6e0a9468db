"""What is measured, how it is served, and how the load is made: the same for all benchmarks."""

from __future__ import annotations

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from devkit import samples

ROOT = Path(__file__).resolve().parent.parent
SECRET = "whsec_fake_for_benchmarks"
TYPE = "v1.customer.created"
HANDLERS = {
    "__init__": "",
    "fallback": "def handle(notif, client, details): pass\n",
    "v1_customer_created": "def handle(notif, client): pass\n",
}
#: wrk's threads. One is enough to keep two cores busy with Python, and leaves them more.
LOAD_THREADS = 1
#: Notifications that are signed beforehand for each second of load: none is posted twice.
MOST_PER_SECOND = 12000


@dataclass(frozen=True)
class Subject:
    """One thing that is measured: gunicorn's arguments, settings that differ, handlers."""

    name: str
    arguments: tuple[str, ...] = ()
    environ: tuple[tuple[str, str], ...] = ()
    handlers: Mapping[str, str] = field(default_factory=lambda: HANDLERS)


class Server:
    """A gunicorn of ours, seen from outside."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        """Take the arbiter's process and the port that it listens on."""
        self.process = process
        self.port = port

    def workers(self) -> list[int]:
        """Return the process ids of the workers."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
        return [int(child) for child in children.split()]

    def cpu_seconds(self) -> float:
        """Return the processor time that all workers have used so far."""
        ticks = 0
        for pid in self.workers():
            fields = (
                Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
            )
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory_mb(self) -> float:
        """Return the memory of one worker, its share of what is shared included."""
        sizes = []
        for pid in self.workers():
            text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
            sizes.append(int(text.partition("\nPss:")[2].split()[0]) / 1024)
        return statistics.mean(sizes)


@contextmanager
def serve(subject: Subject, folder: Path) -> Iterator[Server]:
    """Serve the ``subject``, which writes to ``folder``, until the block is left."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    package = folder / "benchmarked"
    package.mkdir()
    for name, source in subject.handlers.items():
        (package / f"{name}.py").write_text(source, encoding="utf-8")
    with (folder / "log").open("wb") as log:
        command = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}"]
        process = subprocess.Popen(
            [*command, *subject.arguments],
            cwd=ROOT,
            env=environ(subject, folder, port),
            stdout=log,
            stderr=log,
        )
    try:
        _wait(port, folder / "log")
        yield Server(process, port)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


@contextmanager
def work(subject: Subject, folder: Path) -> Iterator[None]:
    """Run a worker process beside the ``subject`` that is served from ``folder``."""
    file = folder / "worker.log"
    with file.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "flask", "worker", "--threads", "4"],
            cwd=ROOT,
            env=environ(subject, folder, 4242),  # a port without a listener
            stdout=log,
            stderr=log,
        )
    try:
        while "worker_started" not in (said := file.read_text(encoding="utf-8")):
            if process.poll() is not None:
                sys.exit(f"The worker did not start:\n{said}")
            time.sleep(0.1)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def deliver(server: Server) -> int:
    """Deliver one event, of an object of its own. Returns the status of the answer."""
    name = uuid.uuid4().hex
    notification = samples.notification(TYPE, event_id=f"evt_{name}", object_id=f"cus_{name}")
    body = samples.encode(notification)
    headers = {"Content-Type": "application/json", "Stripe-Signature": samples.sign(body, SECRET)}
    url = f"http://127.0.0.1:{server.port}/webhook"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=60) as done:
            return int(done.status)
    except urllib.error.HTTPError as error:
        return error.code


def environ(subject: Subject, folder: Path, port: int) -> dict[str, str]:
    """Return the environment of a process of the ``subject``."""
    return {
        "PATH": os.environ.get("PATH", ""),
        "PYTHONPATH": str(folder),
        "STRIPE_API_KEY": "sk_test_fake_for_benchmarks",
        "STRIPE_WEBHOOK_SECRET": SECRET,
        "DATABASE_URL": f"sqlite:///{folder}/inbox.sqlite3",
        "HANDLERS_PACKAGE": "benchmarked",
        "PORT": str(port),
        "LOG_FORMAT": "json",
        **dict(subject.environ),
    }


def _wait(port: int, log: Path) -> None:
    for _ in range(300):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=1)
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.1)
    sys.exit(f"The server did not start:\n{log.read_text(encoding='utf-8')}")


def load(
    server: Server, file: Path, *, connections: int, seconds: int, most: int | None = None
) -> dict[str, float]:
    """Let wrk post for so many seconds, each notification once, and return what it saw.

    With ``most`` it ends as soon as so many have been answered. Each is of an object of its own.
    """
    sample = samples.encode(
        samples.notification(TYPE, event_id="evt_template", object_id="cus_template")
    )
    with file.open("w", encoding="utf-8") as lines:
        for _ in range(most or MOST_PER_SECOND * seconds):
            body = sample.replace(b"template", uuid.uuid4().hex.encode())
            lines.write(f"{samples.sign(body, SECRET)}\t{body.decode()}\n")
    command = ["wrk", f"-t{LOAD_THREADS}", f"-c{connections}", f"-d{seconds}s", "--latency"]
    script = str(ROOT / "benchmarks" / "load.lua")
    url = f"http://127.0.0.1:{server.port}"
    done = subprocess.run(
        [*command, "-s", script, url, "--", str(file), str(LOAD_THREADS), str(most or 0)],
        capture_output=True,
        text=True,
        check=True,
        timeout=seconds + 60,
    )
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures
