"""Reconciliation with processes that are killed: each undelivered event is backfilled once.

Callbacks write a journal, and the tests read it.

"""

from __future__ import annotations

import contextlib
import functools
import random
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.inbox import Event, Inbox
from app.inbox.filters import EventFilter
from app.reconcile.windows import LIST_LAG_SECONDS, OVERLAP_SECONDS
from app.stripe_api.catalog import module_name
from devkit import samples
from devkit.stripe_api import StripeApi
from tests.conftest import Receiver
from tests.support import raw_sql
from tests.support.services import DEADLINE, HANDLER, Entry, Lab, Service, find
from tests.support.waiting import wait_for

TYPES = ("v1.customer.created", "v1.invoice.paid")
ACCOUNTS = ("acct_1", "acct_2", "acct_3", "acct_4")
EVENTS = 3000
LATE = 40
"""The number of deliveries during the reconciliation. They are dropped only at first."""


@pytest.fixture
def modules() -> dict[str, str]:
    """A module for each type, whose callback writes a journal."""
    return {module_name(type_): HANDLER for type_ in TYPES}


@functools.cache
def sample(event_type: str) -> dict[str, Any]:
    """Return a notification of the type, cached because making one is slow."""
    return samples.notification(event_type)


class World:
    """The events of Stripe, their deliveries, and the command that backfills the others."""

    def __init__(self, lab: Lab, api: StripeApi, url: str, seed: int) -> None:
        """Take the parts, and the seed of the random choices."""
        self.lab = lab
        self.api = api
        self.url = url
        self.chance = random.Random(seed)  # noqa: S311 - a test's own
        self.inbox = Inbox(url, lease_seconds=1)
        self.bodies: dict[str, dict[str, Any]] = {}

    def happen(self, count: int, begin: int = 0, oldest: float = 80_000) -> None:
        """Let ``count`` events happen, of all accounts, in the last hours or seconds."""
        now = datetime.now(UTC)
        for number in range(begin, begin + count):
            age = self.chance.uniform(LIST_LAG_SECONDS + 60, oldest)
            notification = {
                **sample(self.chance.choice(TYPES)),
                "id": f"evt_{number}",
                "created": (now - timedelta(seconds=age)).isoformat(timespec="milliseconds"),
            }
            if context := self.chance.choice([None, *ACCOUNTS]):
                notification["context"] = context
            self.bodies[notification["id"]] = notification
            self.api.put_event(samples.event(notification, {}))

    def reconcile(self, lease_seconds: int = 1) -> Service:
        """Start the command. With a short lease, its claims are soon rescued after a kill."""
        accounts = [word for account in ACCOUNTS for word in ("--account", account)]
        arguments = ("-m", "flask", "events", "reconcile", "--yes", *accounts)
        environment = self.environment(LEASE_SECONDS=str(lease_seconds))
        self.lab.services.append(Service(environment, arguments))
        return self.lab.services[-1]

    def environment(self, **changes: str) -> dict[str, str]:
        """Return the settings, with short leases."""
        settings = {"LEASE_SECONDS": "1", "MAX_CRASHES": "1000", **changes}
        return self.lab.environment(DATABASE_URL=self.url, STRIPE_API_BASE=self.api.url, **settings)

    def kill_when(self, condition: Callable[[], bool]) -> None:
        """Start the command, and kill it when a condition holds."""
        process = self.reconcile()
        wait_for(lambda: condition() or process.process.poll() is not None, DEADLINE)
        process.process.kill()
        process.wait()

    def kill_while_it_reads(self) -> None:
        """Start the command, and kill it while it waits for one of the pages."""
        held: list[threading.Event] = []
        pages = self.chance.randint(1, 20)
        self.api.events.after_page(pages, lambda: held.append(self.api.hold("/v2/core/events")))
        self.kill_when(lambda: bool(held))
        held[0].set()

    def backfilled(self) -> set[str]:
        """Return the ids of all backfilled events."""
        rows = raw_sql.select(self.url, "events WHERE source = 'reconcile'")
        return {row[0] for row in rows}

    def open_events(self) -> list[Event]:
        """Return the events that are pending or running."""
        states = ("pending", "running")
        return [
            each
            for state in states
            for each in self.inbox.administration.select(EventFilter(state), EVENTS)
        ]


def test_exactly_the_dropped_events_are_backfilled_once(
    lab: Lab, make_receiver: Callable[..., Receiver], stripe_api: StripeApi, database_url: str
) -> None:
    """3,000 events of five accounts, a tenth dropped at random, and the command killed four times.

    It is killed while it reads, records and runs, during further deliveries.

    """
    seed = secrets.randbits(32)
    world = World(lab, stripe_api, database_url, seed)
    receiver = make_receiver(handlers_package=lab.package.name, database_url=database_url)
    world.happen(EVENTS)
    dropped = {id_ for id_ in world.bodies if world.chance.random() < 0.1}
    delivered = [body for id_, body in world.bodies.items() if id_ not in dropped]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda body: _deliver_late(receiver, [body]), delivered))
    late = world.chance.sample(sorted(dropped), LATE)

    with contextlib.closing(world.inbox), ThreadPoolExecutor(1) as pool:
        world.kill_while_it_reads()
        assert world.backfilled() == set()
        delivering = pool.submit(_deliver_late, receiver, [world.bodies[id_] for id_ in late])
        limit = world.chance.randint(5, 60)
        world.kill_when(lambda: len(world.backfilled()) >= limit)
        for _ in range(2):
            limit = lab.count_entries() + world.chance.randint(5, 100)
            world.kill_when(lambda: lab.count_entries() >= limit)  # noqa: B023 - it is called at once
        delivering.result()
        # An event that ran at the kill can run again when its lease has ended.
        wait_for(lambda: all((each.lease_until or 0) < time.time() for each in world.open_events()))
        # With a lease of a second, the watchdog ends a process that a busy machine holds up.
        last = world.reconcile(lease_seconds=30)
        assert last.wait() == 0, last.log
        assert_complete(world, lab.journal(), dropped, set(late), kills=4)

        before = lab.count_entries()
        again = world.reconcile()
        assert again.wait() == 0, again.log
        assert "None is missing." in again.log
        assert lab.count_entries() == before, seed


def _deliver_late(receiver: Receiver, bodies: list[dict[str, Any]]) -> None:
    """Deliver until each is accepted: an event that runs gets 409."""
    for body in bodies:
        wait_for(lambda: receiver.deliver(body).status_code == 200, DEADLINE)  # noqa: B023 - called at once


def assert_complete(
    world: World, journal: list[Entry], dropped: set[str], late: set[str], kills: int
) -> None:
    """Fail unless all events succeeded, and no event ran again after its success was recorded."""
    events = {each.id: each for each in world.inbox.administration.latest(EVENTS + 1)}
    assert events.keys() == world.bodies.keys()
    assert {each.state for each in events.values()} == {"done"}
    assert dropped - late <= world.backfilled() <= dropped
    last = {entry.event_id: entry for entry in journal}
    assert {id_: (each.what, each.attempt) for id_, each in last.items()} == {
        id_: ("end", each.attempt) for id_, each in events.items()
    }
    runs = Counter(entry.event_id for entry in journal if entry.what == "start")
    again = {id_ for id_, count in runs.items() if count > 1}
    assert again <= dropped
    # One event runs at a time, so each kill can repeat at most one.
    assert sum(runs.values()) - EVENTS <= kills
    assert {each.context for each in events.values()} == {None, *ACCOUNTS}


def test_worker_takes_over_from_a_killed_leader(
    lab: Lab, stripe_api: StripeApi, database_url: str
) -> None:
    """Of two workers one reconciles. After its death the other one takes over the leadership."""
    world = World(lab, stripe_api, database_url, 1)
    world.happen(5)
    accounts = [word for account in ACCOUNTS for word in ("--account", account)]
    options = ("-m", "flask", "worker", "--threads", "1", "--reconcile-every", "1s", *accounts)
    environment = world.environment(PROCESSING="queue")
    first = Service(environment, options)
    lab.services.append(first)
    with contextlib.closing(world.inbox):
        wait_for(
            lambda: len(world.inbox.administration.select(EventFilter("done"), 10)) == 5, DEADLINE
        )
        lab.services.append(Service(environment, options))
        wait_for(lambda: "worker_started" in lab.services[-1].log, DEADLINE)
        first.process.kill()
        first.wait()
        world.happen(3, begin=5, oldest=LIST_LAG_SECONDS + OVERLAP_SECONDS - 60)
        raw_sql.execute(database_url, "UPDATE leaders SET until = 0")
        wait_for(
            lambda: len(world.inbox.administration.select(EventFilter("done"), 10)) == 8, DEADLINE
        )
        assert "event_backfilled" in lab.services[-1].log
    assert Counter(entry.what for entry in lab.journal()) == {"start": 8, "end": 8}
    assert find(database_url, "evt_7").source == "reconcile"
