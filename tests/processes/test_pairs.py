"""Pairs under SIGKILL: each action at Stripe comes as two events, and one callback succeeds.

Callbacks write a journal, and the tests read it: the inbox alone could be wrong.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

import pytest

from app.inbox.filters import EventFilter
from devkit import samples
from devkit.stripe_api import StripeApi
from tests.support.pace import Pace
from tests.support.services import (
    DEADLINE,
    SECRETS,
    Entry,
    Lab,
    Service,
    ask_inbox,
    children_of,
    count_done,
)
from tests.support.waiting import wait_for

SNAPSHOT, THIN = "customer.created", "v1.customer.created"

#: Notes its begin and its end. Every fifth first attempt of an event fails.
HANDLER = """
    import json, os, time, zlib
    from pathlib import Path

    from app.processing.runner import _current

    FILE = Path(__file__).parent / "journal"

    def note(what, event_id, attempt):
        entry = {{"what": what, "event_id": event_id, "attempt": attempt,
                 "pid": os.getpid(), "at": time.monotonic()}}
        descriptor = os.open(FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, (json.dumps(entry) + "\\n").encode())
        os.close(descriptor)

    def handle({name}, client):
        attempt = _current.get().claim.attempt
        note("start", {name}.id, attempt)
        time.sleep(0.005)
        if attempt == 1 and zlib.crc32({name}.id.encode()) % 5 == 0:
            raise RuntimeError("the first attempt fails")
        note("end", {name}.id, attempt)
"""

#: Short leases, because many processes are killed. Attempts and crashes are unlimited.
RESTLESS: dict[str, Any] = {
    "LEASE_SECONDS": 1,
    "MAX_CRASHES": 100000,
    "MAX_ATTEMPTS": 10000,
    "RETRY_CAP_SECONDS": 1,
    "WEB_CONCURRENCY": 2,
    "STRIPE_RATE_LIMIT": 1000,
}


@pytest.fixture
def modules() -> dict[str, str]:
    """Both modules of one type."""
    return {
        "customer_created": HANDLER.format(name="event"),
        "v1_customer_created": HANDLER.format(name="notif"),
    }


def thin_event(path: str) -> dict[str, Any] | None:
    """Return the full event for a path of Stripe's API: it names the snapshot event."""
    found = re.fullmatch(r"/v2/core/events/(evt_n_(\d+))", path)
    if found is None:
        return None
    return samples.event(thin(found[2]), snapshot_event=f"evt_s_{found[2]}")


def thin(number: object) -> dict[str, Any]:
    """Return the thin event of an action."""
    # Another object than in the snapshot event, so that workers can claim both at once.
    return samples.notification(THIN, event_id=f"evt_n_{number}", object_id=f"cus_n_{number}")


def bodies(number: int) -> tuple[bytes, bytes]:
    """Return the bodies of both events of an action."""
    fields = {"object": "customer", "id": f"cus_s_{number}"}
    snapshot = samples.snapshot_event(
        SNAPSHOT, event_id=f"evt_s_{number}", unknown=True, fields=fields
    )
    return samples.encode(snapshot), samples.encode(thin(number))


#: So many processes are killed during the deliveries, or one less.
KILLS = 12


class Restless:
    """Services that are killed at random, and started again."""

    def __init__(self, lab: Lab, database_url: str, api: StripeApi, **settings: Any) -> None:
        """Start two of them."""
        self._start: Callable[[], Service] = partial(
            lab.start, database_url, STRIPE_API_BASE=api.url, **RESTLESS, **settings
        )
        self.random = Random(20261127)  # noqa: S311 - the same kills every time
        self.services = [self._start() for _ in range(2)]
        for each in self.services:
            wait_for(each.is_ready, DEADLINE)

    def kill(self, pace: Pace) -> None:
        """Kill services, or workers of them, in step with the deliveries."""
        while pace.wait_to_kill(self.random.uniform(0.4, 1.0)):
            number = self.random.randrange(len(self.services))
            victim: Service = self.services[number]
            children = children_of(victim.process.pid)
            if children and self.random.random() < 0.7:
                with contextlib.suppress(ProcessLookupError):  # it may have ended by itself
                    os.kill(self.random.choice(children), signal.SIGKILL)
                    pace.killed += 1
                continue
            if victim.process.poll() is None:
                os.killpg(victim.process.pid, signal.SIGKILL)
                pace.killed += 1
            victim.process.wait(DEADLINE)
            self.services[number] = self._start()

    def deliver(self, body: bytes) -> bool:
        """Deliver a body to one of them. Returns whether Stripe may forget the event."""
        service = self.random.choice(self.services)
        headers = {"Stripe-Signature": samples.sign(body, SECRETS[0], int(time.time()))}
        with contextlib.suppress(OSError, AssertionError, json.JSONDecodeError):  # it was killed
            return service.ask("POST", "/webhook", body, headers).status == 200
        return False


def shuffled(number: int, random: Random) -> list[bytes]:
    """Return the bodies of both events of each action, some of them twice."""
    order = [body for each in range(number) for body in bodies(each)]
    mixed = [*order, *random.sample(order, number // 4)]
    # In random order, but not far from each other: most twins are in the service at once.
    places = ((place // 2 + random.uniform(0, 12), body) for place, body in enumerate(mixed))
    return [body for _, body in sorted(places)]


def deliver_all(lab: Lab, restless: Restless, pace: Pace, mixed: list[bytes]) -> None:
    """Deliver each body until a 2xx, as Stripe does."""
    waiting = iter(enumerate(mixed))
    lock = threading.Lock()

    def deliver() -> None:
        while True:
            with lock:
                place, body = next(waiting, (0, None))
            if body is None:
                return
            pace.wait_to_deliver(place)
            end = time.monotonic() + DEADLINE
            while not restless.deliver(body):
                assert time.monotonic() < end
                time.sleep(0.05)

    for future in [lab.pool.submit(deliver) for _ in range(12)]:
        future.result(10 * DEADLINE)


def assert_one_success_each(lab: Lab, database_url: str, number: int) -> Counter[str]:
    """Fail unless one event of each action is handled, and no run began after its success."""
    found = ask_inbox(
        database_url, lambda inbox: inbox.administration.select(EventFilter(), 3 * number)
    )
    events = {each.id: each for each in found}
    assert len(events) == 2 * number
    journal: dict[str, list[Entry]] = {}
    for entry in lab.journal():
        journal.setdefault(entry.event_id.rpartition("_")[2], []).append(entry)
    outcomes: Counter[str] = Counter()
    for each in range(number):
        both = [events[f"evt_{kind}_{each}"] for kind in "sn"]
        assert sorted((one.state, str(one.outcome)) for one in both) == [
            ("done", "handled"),
            ("done", "twin"),
        ], each
        (winner,) = (one for one in both if one.outcome == "handled")
        entries = sorted(journal[str(each)], key=lambda entry: entry.at)
        # The run whose success is recorded was alone, and none began after it.
        latest = [(one.what, one.event_id, one.attempt) for one in entries[-2:]]
        run = (winner.id, winner.attempt)
        assert latest == [("start", *run), ("end", *run)], entries
        outcomes[winner.type] += 1
    return outcomes


def run(lab: Lab, database_url: str, number: int, **settings: Any) -> None:
    """Deliver both events of so many actions while processes are killed."""
    with StripeApi(thin_event).serve() as api:
        restless = Restless(lab, database_url, api, **settings)
        mixed = shuffled(number, restless.random)
        pace = Pace(kills=KILLS, deliveries=len(mixed))
        killing = lab.pool.submit(restless.kill, pace)
        killing.add_done_callback(lambda _: pace.over.set())  # the deliveries would wait for kills
        try:
            deliver_all(lab, restless, pace, mixed)
        finally:
            pace.over.set()
            killing.result(DEADLINE)
        wait_for(lambda: count_done(database_url) == 2 * number, 3 * DEADLINE)
    assert pace.killed >= KILLS - 1
    outcomes = assert_one_success_each(lab, database_url, number)
    assert set(outcomes) == {SNAPSHOT, THIN}


@pytest.mark.parametrize("number", [200])
def test_inline(lab: Lab, database_url: str, number: int) -> None:
    """A web process that is killed in a callback leaves the action to the other event too."""
    run(lab, database_url, number)


def test_queue_on_sqlite(lab: Lab, sqlite_url: str) -> None:
    """Workers in two services on one file."""
    run(lab, sqlite_url, 200, PROCESSING="queue")


def test_queue_on_postgresql(lab: Lab, postgresql_url: str) -> None:
    """Two replicas."""
    run(lab, postgresql_url, 400, PROCESSING="queue")
