"""/metrics of real processes: several workers, one of which is killed and replaced."""

from __future__ import annotations

import os
import re
import signal
import socket
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.inbox import NewEvent
from tests.support.ports import free_port
from tests.support.services import (
    DEADLINE,
    EVENT_TYPE,
    HOST,
    Lab,
    Service,
    ask_inbox,
    children_of,
    notification,
)
from tests.support.waiting import wait_for

DELIVERED = ("stripe_receiver_deliveries_total", "accepted", EVENT_TYPE)
ATTEMPTED = ("stripe_receiver_attempts_total", "handled", EVENT_TYPE)
IDLE = ("stripe_receiver_worker_threads", "idle")
Samples = dict[tuple[str, ...], float]


def event(event_id: str) -> NewEvent:
    """Return an event as a delivery brings it."""
    return NewEvent(event_id, EVENT_TYPE, livemode=False, context=None, body=notification(event_id))


def scrape(port: int) -> Samples:
    """Return the samples of a scrape, as Prometheus's own parser reads them."""
    with urllib.request.urlopen(f"http://{HOST}:{port}/metrics", timeout=DEADLINE) as answer:
        text = answer.read().decode()
    return {
        (sample.name, *(label for _, label in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def counters(samples: Samples) -> Samples:
    """Return the samples that may only grow."""
    grows = re.compile("stripe_receiver_.*(_total|_count|_sum|_bucket)")
    return {name: value for name, value in samples.items() if grows.fullmatch(name[0])}


def shared_folder(service: Service) -> list[Path]:
    """Return the folder of the shared counts of a service, if it is there."""
    memory = Path("/dev/shm")  # noqa: S108 - only listed
    return list(memory.glob(f"stripe-receiver-metrics-{service.process.pid}-*"))


def status(port: int, path: str) -> int:
    """Return the status of a GET."""
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}{path}", timeout=DEADLINE) as answer:
            found: int = answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    return found


@pytest.mark.measured
def test_killed_worker_costs_no_count(lab: Lab, sqlite_url: str) -> None:
    """Counters only grow, and the gauges of a killed process go. A reload keeps the counts."""
    ops_port = free_port()
    options = ("--bind", f"{HOST}:{ops_port}", "--workers", "2")
    queue: dict[str, Any] = {"PROCESSING": "queue", "WORKER_THREADS": 2, "OPS_PORT": ops_port}
    service = lab.start(sqlite_url, *options, **queue)
    wait_for(service.is_ready, DEADLINE)
    delivered = 0
    seen: Samples = {}

    def deliver(number: int) -> None:
        nonlocal delivered
        for _ in range(number):
            delivered += 1
            assert service.deliver(f"evt_{delivered}").brief == (200, "accepted")

    def look() -> Samples:
        nonlocal seen
        found = scrape(ops_port)
        smaller = {name for name, value in counters(seen).items() if found.get(name, 0) < value}
        assert smaller == set()
        seen = found
        return found

    def workers() -> list[int]:
        return children_of(service.process.pid)

    def replaced(old: set[int]) -> bool:
        return len(workers()) == 2 and not old & set(workers())

    deliver(8)
    wait_for(lambda: look().get(ATTEMPTED) == delivered)
    wait_for(lambda: look()[IDLE] == 4)
    for number, old in ((signal.SIGKILL, {workers()[0]}), (signal.SIGHUP, set(workers()))):
        os.kill(next(iter(old)) if number == signal.SIGKILL else service.process.pid, number)
        wait_for(partial(replaced, old))
        deliver(6)
        wait_for(lambda: look().get(ATTEMPTED) == delivered)
        wait_for(lambda: look()[IDLE] == 4)
        assert seen[DELIVERED] == delivered

    ports = ("/metrics", "//metrics", "/readyz", "/webhook", "//webhook")
    assert [status(service.port, path) for path in ports] == [404, 404, 200, 405, 404]
    assert [status(ops_port, path) for path in ports] == [200, 404, 200, 404, 404]
    assert len(shared_folder(service)) == 1
    service.terminate()
    service.wait()
    assert shared_folder(service) == []
    counts = ask_inbox(sqlite_url, lambda inbox: inbox.activity.since(0))
    kept = sum(each.number for each in counts if (each.kind, each.name) == ("delivery", "accepted"))
    assert delivered - 8 <= kept <= delivered  # the killed worker had counted up to 8 of them


@pytest.mark.measured
def test_worker_serves_its_own(lab: Lab, sqlite_url: str) -> None:
    """A worker shows its threads and its attempts, and the inbox."""
    port = free_port()
    worker = lab.start_worker(sqlite_url, "--threads", "3", "--metrics-port", str(port))
    wait_for(lambda: "worker_started" in worker.log, DEADLINE)
    ask_inbox(sqlite_url, lambda inbox: inbox.deliveries.enqueue(event("evt_1")))
    wait_for(lambda: scrape(port).get(ATTEMPTED) == 1)
    wait_for(lambda: scrape(port)[IDLE] == 3)
    found = scrape(port)
    assert found["stripe_receiver_inbox_up",] == 1
    assert found["process_open_fds",] > 0
    worker.terminate()
    assert worker.wait() == 0


def test_metrics_port_in_use(lab: Lab, sqlite_url: str) -> None:
    """A port that cannot be opened ends the start, with what to do."""
    with socket.create_server((HOST, 0)) as other:
        port = other.getsockname()[1]
        worker = lab.start_worker(sqlite_url, "--metrics-port", str(port))
        assert worker.wait() == 1
    worker.end()
    assert f"Port {port} cannot be opened: Address already in use" in worker.log
    assert "choose another port in --metrics-port" in worker.log
