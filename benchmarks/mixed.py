"""Fast callbacks beside slow ones in one process: a delivery waits for no other's callback."""

from __future__ import annotations

import http.client
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from benchmarks.burst import CALLBACK_SECONDS
from benchmarks.serving import SECRET, Server, Subject, load, serve
from devkit import samples

SLOW_TYPE = "v1.invoice.paid"
#: Connections to callbacks that return at once, and to those that wait as for Stripe's API.
FAST, SLOW = 4, 4
THREADS = 16
HANDLERS = {
    "__init__": "",
    "fallback": "def handle(notif, client, details): pass\n",
    "v1_customer_created": "def handle(notif, client): pass\n",
    "v1_invoice_paid": f"import time\ndef handle(notif, client): time.sleep({CALLBACK_SECONDS})\n",
}
SETTINGS = (("WEB_CONCURRENCY", "1"), ("WEB_THREADS", str(THREADS)))
SUBJECTS = (
    Subject("snippet", ("benchmarks.snippet:load_mixed()",), environ=SETTINGS, handlers=HANDLERS),
    Subject("service, inline, SQLite", environ=SETTINGS, handlers=HANDLERS),
)


def run(seconds: int) -> None:
    """Load each subject for so many ``seconds``, without slow callbacks and beside them."""
    if seconds == 0:
        return
    print(
        f"\n{FAST} connections with fast callbacks beside others with callbacks of"
        f" {CALLBACK_SECONDS * 1000:.0f} ms, 1 process x {THREADS} threads"
    )
    print(f"{'':32}{'slow ones':>12}{'requests/s':>12}{'p50 ms':>9}{'p99 ms':>9}")
    for subject in SUBJECTS:
        for slow in (0, SLOW):
            _measure(subject, slow, seconds)


def _measure(subject: Subject, slow: int, seconds: int) -> None:
    with tempfile.TemporaryDirectory() as folder, serve(subject, Path(folder)) as server:
        file = Path(folder) / "load"
        load(server, file, connections=FAST, seconds=1)
        with _delivering_slow(server, slow):
            found = load(server, file, connections=FAST, seconds=seconds)
    rate = found["requests"] / found["seconds"]
    figures = f"{rate:>12.0f}{found['p50_ms']:>9.2f}{found['p99_ms']:>9.2f}"
    print(f"{subject.name:32}{slow:>12}{figures}", flush=True)


@contextmanager
def _delivering_slow(server: Server, connections: int) -> Iterator[None]:
    """Deliver events with slow callbacks, one after the other on each of the connections."""
    ends = threading.Event()
    threads = [
        threading.Thread(target=_deliver_slow, args=(server, ends)) for _ in range(connections)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ends.set()
        for thread in threads:
            thread.join()


def _deliver_slow(server: Server, ends: threading.Event) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)) as connection:
        while not ends.is_set():
            name = uuid.uuid4().hex
            values = samples.notification(SLOW_TYPE, event_id=f"evt_{name}", object_id=f"in_{name}")
            body = samples.encode(values)
            headers = {
                "Content-Type": "application/json",
                "Stripe-Signature": samples.sign(body, SECRET),
            }
            connection.request("POST", "/webhook", body, headers)
            connection.getresponse().read()
