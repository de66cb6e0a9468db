"""What a PostgreSQL whose processes stand still does to the time that an answer takes."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.serving import Server, Subject, deliver, serve
from tests.support.services import Postgresql, embedded_postgresql

CROWD = 40
THREADS = 8
SETTINGS = (("WEB_CONCURRENCY", "1"), ("WEB_THREADS", str(THREADS)))
QUEUE = (("PROCESSING", "queue"),)


def run() -> None:
    """Freeze a server of its own, and print how soon deliveries are answered."""
    print(f"\n{CROWD} deliveries at once on {THREADS} threads; promised: answered within 2 s")
    print(f"{'':40}{'p50 s':>9}{'most s':>9}  answers")
    with embedded_postgresql() as server:
        postgresql = Postgresql(server)
        database = ("DATABASE_URL", postgresql.url)
        for name, mode in (("inline", ()), ("queue", QUEUE)):
            subject = Subject(name, environ=(*SETTINGS, *mode, database))
            with tempfile.TemporaryDirectory() as folder, serve(subject, Path(folder)) as served:
                deliver(served)  # the first one reads the SDK's sources
                _report(f"{name}, well", served)
                with postgresql.frozen():
                    _report(f"{name}, just frozen", served)
                    for _ in range(5):
                        _report(f"{name}, frozen", served)
                time.sleep(1)  # it is looked for twice a second
                _report(f"{name}, well again", served)


def _report(name: str, server: Server) -> None:
    def time_one(_number: int) -> tuple[float, int]:
        started = time.perf_counter()
        status = deliver(server)
        return time.perf_counter() - started, status

    with ThreadPoolExecutor(CROWD) as pool:
        found = list(pool.map(time_one, range(CROWD)))
    times = [seconds for seconds, _ in found]
    answers = dict(Counter(status for _, status in found))
    print(f"{name:40}{statistics.median(times):>9.3f}{max(times):>9.3f}  {answers}")
