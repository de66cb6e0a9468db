"""A burst onto callbacks that take their time: how soon it is answered, how fast worked off."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import time
from pathlib import Path

from app.inbox import Inbox
from app.inbox.filters import EventFilter
from benchmarks.serving import Subject, load, serve

CALLBACK_SECONDS = 0.2
CONNECTIONS = 32
#: Twice as many as there are threads, so that half of the deliveries have to wait for one.
MORE_CONNECTIONS = 64
#: As long as wrk waits, whether all has been answered before or not.
SECONDS = 12
PROCESSES = 2
THREADS = 16
#: Where the callback runs before the answer, so few are enough to see what an answer takes.
PATIENT = 600
HANDLERS = {
    "__init__": "",
    "fallback": "def handle(notif, client, details): pass\n",
    "v1_customer_created": (
        f"import time\ndef handle(notif, client): time.sleep({CALLBACK_SECONDS})\n"
    ),
}
SETTINGS = (("WEB_CONCURRENCY", str(PROCESSES)), ("WEB_THREADS", str(THREADS)))
QUEUE = (("PROCESSING", "queue"), ("WORKER_THREADS", str(THREADS)))

SLOW_SNIPPET = Subject(
    "snippet", ("benchmarks.snippet:load_slow()",), environ=SETTINGS, handlers=HANDLERS
)
INLINE = Subject("service, inline, SQLite", environ=SETTINGS, handlers=HANDLERS)
QUEUED = dataclasses.replace(INLINE, name="service, queue, SQLite", environ=(*SETTINGS, *QUEUE))


def run(most: int) -> None:
    """Deliver ``most`` events as fast as they are answered, and print what came of it."""
    if most == 0:
        return
    print(
        f"\nA burst onto callbacks of {CALLBACK_SECONDS * 1000:.0f} ms,"
        f" {PROCESSES} processes x {THREADS} threads"
    )
    print(f"{'':32}{'deliveries':>12}{'connections':>13}{'p50 ms':>9}{'p99 ms':>9}")
    for subject, number, connections in (
        (SLOW_SNIPPET, PATIENT, CONNECTIONS),
        (INLINE, PATIENT, CONNECTIONS),
        (QUEUED, most, CONNECTIONS),
        (QUEUED, most, MORE_CONNECTIONS),
    ):
        _measure(subject, min(number, most), connections)


def _measure(subject: Subject, most: int, connections: int) -> None:
    with tempfile.TemporaryDirectory() as folder, serve(subject, Path(folder)) as server:
        file = Path(folder) / "load"
        found = load(server, file, connections=connections, seconds=SECONDS, most=most)
        figures = f"{found['p50_ms']:>9.1f}{found['p99_ms']:>9.1f}"
        print(f"{subject.name:32}{found['requests']:>12.0f}{connections:>13}{figures}")
        if subject is QUEUED:
            _watch_backlog(Path(folder))


def _watch_backlog(folder: Path) -> None:
    """Wait until all is done, and print how fast that went beside what the threads allow."""
    url = f"sqlite:///{folder}/inbox.sqlite3"
    with contextlib.closing(Inbox(url, lease_seconds=30)) as inbox:
        total = inbox.administration.count(EventFilter(), bound=10**7).number
        open_states = [EventFilter(state=each) for each in ("pending", "running")]
        while any(inbox.administration.count(each).number for each in open_states):
            time.sleep(0.5)
        events = inbox.administration.select(EventFilter(), total)
    begun = min(event.claimed_at or 0 for event in events)
    ended = max(event.settled_at or 0 for event in events)
    starts = sorted((event.claimed_at or 0) - event.received_at for event in events)
    rate, bound = total / (ended - begun), PROCESSES * THREADS / CALLBACK_SECONDS
    print(
        f"worked off: {total} events at {rate:.0f} a second, {rate / bound:.2f} of the"
        f" {bound:.0f} that {PROCESSES} x {THREADS} threads allow; the first began"
        f" {starts[0] * 1000:.1f} ms after it was recorded"
    )
