"""The wall clock is set while the service runs: no event runs twice, and none is delayed.

Leases end by the wall clock, which can step at any time. Callbacks write a journal, and the tests
read it.

"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.clock import HAS_LIBRARY, Clock
from tests.support.services import (
    ACCEPTED,
    DEADLINE,
    DUPLICATE,
    HANDLED,
    ONCE,
    Lab,
    find,
    state,
)
from tests.support.sites import DONE, Site, let_pass, redelivered
from tests.support.waiting import wait_for

MODES = ["inline", "queue"]
LEASE = 3
PAST_GRACE = LEASE + 2 + 1.5
"""Seconds, with a margin, until the event of a killed process is rescued."""
HOUR = 3600
SOON = 120
"""Seconds in which an event runs that does not wait for an hour."""


@pytest.fixture
def clock(tmp_path: Path, lab: Lab) -> Clock:
    """The wall clock of all services of the lab."""
    clock = Clock(tmp_path)
    clock.of_processes(lab.package)
    return clock


@pytest.fixture
def start(
    lab: Lab, clock: Clock, tmp_path: Path, make_postgresql_url: Callable[[], str]
) -> Callable[..., Site]:
    """A function that starts services under the clock, with an inbox of their own."""

    def start(name: str, mode: str, database: str = "sqlite", **settings: Any) -> Site:
        url = f"sqlite:///{tmp_path}/{name}/inbox.sqlite3"
        if database == "postgresql":
            url = make_postgresql_url()
            clock.of_postgresql(url)
        site = Site.start(
            lab, name, mode, url, LEASE_SECONDS=LEASE, **clock.environment, **settings
        )
        for service in site.services:
            clock.of_service(service)
        return site

    return start


@pytest.mark.parametrize("library", sorted({HAS_LIBRARY, False}))
def test_service_uses_the_clock_of_the_test(lab: Lab, tmp_path: Path, *, library: bool) -> None:
    """Signatures, statements and log lines use the clock that the test moves."""
    clock = Clock(tmp_path)
    clock.of_processes(lab.package, library=library)
    url = f"sqlite:///{tmp_path}/inbox.sqlite3"
    service = lab.start(url, **clock.environment)
    clock.of_service(service)
    wait_for(service.is_ready, DEADLINE)

    clock.step(HOUR)
    begun = clock.now()
    assert service.deliver("evt_1").brief == HANDLED

    received_at = find(url, "evt_1").received_at
    assert begun - 1 <= received_at <= clock.now() + 1
    clock.step(-HOUR)
    assert service.deliver("evt_2").brief == HANDLED
    assert find(url, "evt_2").received_at < received_at - HOUR / 2


STEPS = {
    "a minute twice": [60, 60],
    "an hour": [HOUR],
    "an hour back": [-HOUR],
    "an hour and back": [HOUR, -HOUR],
}


def test_step_of_the_clock_runs_no_event_twice(
    lab: Lab, clock: Clock, start: Callable[..., Site]
) -> None:
    """A running callback keeps its event: in one process and several, in both modes.

    After the step all leases have expired, or are an hour long. None can be renewed before the next
    delivery. The same services go through all steps, because their start takes longer than a step.

    """
    sites = [
        start(f"{mode}_{services}_{processes}", mode, services=services, WEB_CONCURRENCY=processes)
        for mode in MODES
        for services, processes in ((1, 1), (1, 2), (2, 1))
    ] + [start(f"{mode}_postgresql", mode, "postgresql") for mode in MODES]
    expected = {"inline": HANDLED, "queue": ACCEPTED}

    for number, (name, steps) in enumerate(STEPS.items()):
        for site in sites:
            site.hold(number)
        with redelivered(sites):
            for seconds in steps:
                clock.step(seconds)
                let_pass(0.7)
            let_pass(PAST_GRACE)
            for site in sites:
                site.release(number)
            done = {site.name: site.answers[site.event(number)].result(DEADLINE) for site in sites}
            let_pass(0.5)

        found = {
            site.name: (
                lab.account(site.event(number)),
                done[site.name].brief,
                state(site.url, site.event(number)),
                {each.deliver(site.event(number)).brief for each in site.services},
            )
            for site in sites
        }
        assert found == {
            site.name: (ONCE, expected[site.mode], DONE, {DUPLICATE}) for site in sites
        }, name
        for site in sites:
            del site.answers[site.event(number)]  # only the event of the next step is redelivered

    for site in sites:
        assert set(map(tuple, site.accounts().values())) == {tuple(ONCE)}


@pytest.mark.parametrize("seconds", [HOUR, -HOUR], ids=["on", "back"])
def test_event_of_a_killed_process_is_run_again_after_a_step(
    lab: Lab, clock: Clock, start: Callable[..., Site], seconds: int
) -> None:
    """The lease may last an hour by the clock. The event and its object do not wait for that."""
    sites = [
        start(f"{mode}_{database}@customer_{mode}_{database}", mode, database)
        for mode in MODES
        for database in ("sqlite", "postgresql")
    ]
    pids = [site.hold() for site in sites]

    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    clock.step(seconds)
    with redelivered(sites):
        for site in sites:
            site.comes_to(("done", "handled", 2), seconds=SOON)

    for site in sites:
        assert lab.account(site.event()) == [("start", 1), ("start", 2), ("end", 2)]
        site.services[1].deliver(site.event(1))
        site.comes_to(DONE, 1, SOON)


def test_new_event_runs_at_once_after_the_clock_went_back(
    lab: Lab, clock: Clock, start: Callable[..., Site]
) -> None:
    """An event that was recorded an hour ahead of the clock is due at once."""
    sites = [start(name, "queue", name, WORKER_THREADS=0) for name in ("sqlite", "postgresql")]
    for site in sites:
        assert site.services[0].deliver(site.event(1)).brief == ACCEPTED

    clock.step(-HOUR)
    for site in sites:
        assert site.services[1].deliver(site.event(2)).brief == ACCEPTED
        lab.start_worker(site.url, LEASE_SECONDS=LEASE, **clock.environment)

    for site in sites:
        for number in (1, 2):
            site.comes_to(DONE, number, SOON)
            assert lab.account(site.event(number)) == ONCE
