"""``make bench``: the service beside the snippet of Stripe's documentation.

Both run under the same gunicorn settings and take the same signed notifications from ``wrk``, in
turn, for several rounds; the ratios are taken round by round, so that a machine that slows down
slows both. Everything stays on 127.0.0.1 and ends by itself.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.testing import samples

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
MOST_PER_SECOND = 8000


@dataclass(frozen=True)
class Subject:
    """One thing that is measured: a name, gunicorn's arguments, and settings that differ."""

    name: str
    arguments: tuple[str, ...] = ()
    environ: tuple[tuple[str, str], ...] = ()


SNIPPET = Subject("snippet, the service's worker", ("benchmarks.snippet:load()",))
SUBJECTS = [
    SNIPPET,
    Subject(
        "snippet, gthread",
        ("benchmarks.snippet:load_wsgi()", "--worker-class", "gthread", "--threads", "8"),
    ),
    Subject("service, inline, SQLite"),
]


@dataclass(frozen=True)
class Figures:
    """What one round of one subject showed."""

    rate: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    memory_mb: float


def main() -> None:
    """Measure all subjects in turn, and print the medians and the ratios to the snippet."""
    options = _options()
    if shutil.which("wrk") is None:
        sys.exit("The load comes from wrk, which is not here. On Debian: apt-get install wrk")
    subjects = SUBJECTS + ([_on_postgresql(options.postgresql)] if options.postgresql else [])
    rounds = []
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
        rounds.append({each.name: _measure(each, options) for each in subjects})
    _report(rounds)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5, help="of load, for each subject a round")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--postgresql", metavar="URL", help="measure the service on it as well")
    return parser.parse_args()


def _on_postgresql(url: str) -> Subject:
    return Subject("service, inline, PostgreSQL", environ=(("DATABASE_URL", url),))


def _measure(subject: Subject, options: argparse.Namespace) -> Figures:
    with tempfile.TemporaryDirectory() as folder, _serve(subject, Path(folder)) as server:
        load = Path(folder) / "load"
        _load(server, load, options, seconds=1)  # warm: classes imported, pools full
        before = server.cpu_seconds()
        result = _load(server, load, options, seconds=options.seconds)
        cpu = server.cpu_seconds() - before
        if result["refused"] or result["broken"] or result["used"] > 1:
            sys.exit(f"{subject.name}: not a fair measurement: {result}")
        requests = result["requests"]
        return Figures(
            rate=requests / result["seconds"],
            p50_ms=result["p50_ms"],
            p99_ms=result["p99_ms"],
            cpu_us=cpu / requests * 1e6,
            memory_mb=server.memory_mb(),
        )


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
def _serve(subject: Subject, folder: Path) -> Iterator[Server]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    package = folder / "benchmarked"
    package.mkdir()
    for name, source in HANDLERS.items():
        (package / f"{name}.py").write_text(source, encoding="utf-8")
    with (folder / "log").open("wb") as log:
        command = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}"]
        process = subprocess.Popen(
            [*command, *subject.arguments],
            cwd=ROOT,
            env=_environ(subject, folder, port),
            stdout=log,
            stderr=log,
        )
    try:
        _wait(port, folder / "log")
        yield Server(process, port)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _environ(subject: Subject, folder: Path, port: int) -> dict[str, str]:
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


def _load(
    server: Server, load: Path, options: argparse.Namespace, *, seconds: int
) -> dict[str, float]:
    """Let wrk post for so many seconds, each notification once, and return what it saw."""
    sample = samples.encode(samples.notification(TYPE, event_id="evt_template"))
    with load.open("w", encoding="utf-8") as lines:
        for _ in range(MOST_PER_SECOND * seconds):
            body = sample.replace(b"evt_template", f"evt_{uuid.uuid4().hex}".encode())
            lines.write(f"{samples.sign(body, SECRET)}\t{body.decode()}\n")
    command = ["wrk", f"-t{LOAD_THREADS}", f"-c{options.connections}", f"-d{seconds}s", "--latency"]
    script = str(ROOT / "benchmarks" / "load.lua")
    url = f"http://127.0.0.1:{server.port}"
    done = subprocess.run(
        [*command, "-s", script, url, "--", str(load), str(LOAD_THREADS)],
        capture_output=True,
        text=True,
        check=True,
        timeout=seconds + 60,
    )
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _report(rounds: list[dict[str, Figures]]) -> None:
    print(f"{'':32}{'requests/s':>12}{'p50 ms':>9}{'p99 ms':>9}{'CPU us':>9}{'MB':>7}")
    for name in rounds[0]:
        _row(name, [each[name] for each in rounds], "{:>12.0f}", "{:>9.1f}")
    print(f"\nmedian of the ratios to: {SNIPPET.name}")
    for name in rounds[0]:
        _row(
            name,
            [_ratio(each[name], each[SNIPPET.name]) for each in rounds],
            "{:>12.2f}",
            "{:>9.2f}",
        )


def _ratio(one: Figures, other: Figures) -> Figures:
    return Figures(
        one.rate / other.rate,
        one.p50_ms / other.p50_ms,
        one.p99_ms / other.p99_ms,
        one.cpu_us / other.cpu_us,
        one.memory_mb / other.memory_mb,
    )


def _row(name: str, figures: list[Figures], rate: str, other: str) -> None:
    cells = [
        rate.format(statistics.median(each.rate for each in figures)),
        other.format(statistics.median(each.p50_ms for each in figures)),
        other.format(statistics.median(each.p99_ms for each in figures)),
        other.format(statistics.median(each.cpu_us for each in figures)),
        other.format(statistics.median(each.memory_mb for each in figures))[2:],
    ]
    print(f"{name:32}{''.join(cells)}")


if __name__ == "__main__":
    main()
