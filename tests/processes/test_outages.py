"""An inbox that is away for longer than a lease: what ran or ended during that is not run again.

No lease can be renewed then, and no success recorded. Stripe goes on delivering, and when the inbox
is back, all processes reach it at the same moment.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.support import raw_sql
from tests.support.services import (
    DEADLINE,
    DUPLICATE,
    EVENT_TYPE,
    HANDLER,
    ONCE,
    ROOT,
    Lab,
    Postgresql,
)
from tests.support.sites import Site, let_pass, redelivered
from tests.support.waiting import wait_for

MODES = ["inline", "queue"]
LEASE = 2
EVENTS = 6
"""Callbacks that run when the inbox goes away, in two processes."""
PAST_GRACE = LEASE + 2 + 3
"""Seconds, with a margin, until the event of a killed process is rescued."""


@pytest.fixture
def lab(tmp_path: Path, make_handlers: Callable[..., str]) -> Iterator[Lab]:
    """Services with callbacks that do as they are told, ended with the test."""
    name = make_handlers(**{EVENT_TYPE.replace(".", "_"): HANDLER})
    lab = Lab(tmp_path / "packages" / name)
    lab.measured = False  # there are many of them, and other tests go the same ways
    try:
        yield lab
    finally:
        lab.close()


def start(lab: Lab, name: str, mode: str, url: str) -> Site:
    """Start two services, neither of which can hold all the callbacks, and hold those."""
    site = Site.start(lab, name, mode, url, WORKER_THREADS=EVENTS - 2, LEASE_SECONDS=LEASE)
    for number in range(EVENTS):
        site.hold(number)
    return site


def go_through(
    sites: list[Site], outage: contextlib.AbstractContextManager[object], seconds: float
) -> None:
    """Have callbacks end in an ``outage`` of so many ``seconds``, and the last one after it.

    Each has to run once; its success has to be recorded, and every service has to know it.
    """
    with redelivered(sites):
        with outage:
            let_pass(1)
            for site in sites:
                site.release(*range(EVENTS - 1))
            let_pass(seconds - 1)
        let_pass(PAST_GRACE)
        for site in sites:
            site.release(EVENTS - 1)
        for site in sites:
            wait_for(site.are_settled, DEADLINE)
    accounts = {event_id: of for site in sites for event_id, of in site.accounts().items()}
    assert accounts == dict.fromkeys(accounts, ONCE)
    for site in sites:
        assert site.are_done()
        for service in site.services:
            assert {service.deliver(event_id).brief for event_id in site.gates} == {DUPLICATE}


# PostgreSQL


def start_on(lab: Lab, server: Postgresql) -> list[Site]:
    """Start services of both modes, each with a database of its own on one ``server``."""
    engine = raw_sql.make_engine(server.url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for mode in MODES:
            connection.execute(sa.text(f"CREATE DATABASE {mode}"))
    engine.dispose()
    urls = [engine.url.set(database=mode).render_as_string(hide_password=False) for mode in MODES]
    return [start(lab, mode, mode, url) for mode, url in zip(MODES, urls, strict=True)]


@contextlib.contextmanager
def stopped(server: Postgresql) -> Iterator[None]:
    """Have the server refuse connections."""
    server.stop()
    try:
        yield
    finally:
        server.start()


@pytest.mark.parametrize("outage", [stopped, Postgresql.frozen])
def test_postgresql_is_away_for_longer_than_a_lease(
    lab: Lab,
    own_postgresql: Postgresql,
    outage: Callable[[Postgresql], contextlib.AbstractContextManager[None]],
) -> None:
    """Whether it refuses connections or answers nothing: every callback runs once."""
    go_through(start_on(lab, own_postgresql), outage(own_postgresql), 5)


@pytest.mark.parametrize("mode", MODES)
def test_locked_rows_are_no_outage_for_the_others(lab: Lab, postgresql_url: str, mode: str) -> None:
    """A person locks rows of one process for long: what it runs beside them keeps its lease."""
    settings: dict[str, Any] = {"LEASE_SECONDS": 4, "WORKER_THREADS": EVENTS}
    site = Site.start(lab, mode, mode, postgresql_url, services=1, **settings)
    for number in range(EVENTS):
        site.hold(number)
    site.services.append(lab.start(postgresql_url, PROCESSING=mode, WEB_CONCURRENCY=1, **settings))
    wait_for(site.services[-1].is_ready, DEADLINE)
    with redelivered([site]):
        with raw_sql.locking(postgresql_url, *map(site.event, range(1, EVENTS))):
            let_pass(20)
        let_pass(PAST_GRACE)
        site.release()
        wait_for(site.are_settled, DEADLINE)
    assert site.accounts() == dict.fromkeys(site.gates, ONCE)


# SQLite

#: Tools that keep a file from being written until their standard input ends.
TOOLS = {
    "writes": """
import sys
from app.inbox.engine.sqlite import driver
connection = driver.connect(sys.argv[1], isolation_level=None, timeout=60)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
""",
    "locks": """
import fcntl, sys
lock = open(sys.argv[1] + ".lock", "rb+")
fcntl.flock(lock, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
""",
}


@contextlib.contextmanager
def locked(site: Site, tool: str) -> Iterator[None]:
    """Have another process keep the inbox from being written."""
    command = [sys.executable, "-c", TOOLS[tool], str(sa.make_url(site.url).database)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        yield
        process.communicate()


def test_sqlite_is_locked_for_longer_than_a_lease(lab: Lab, tmp_path: Path) -> None:
    """By a tool that writes, with the lock of the service or without: every callback runs once."""
    sites = {
        f"{mode}_{tool}": start(lab, f"{mode}_{tool}", mode, f"sqlite:///{tmp_path}/{mode}_{tool}")
        for mode in MODES
        for tool in TOOLS
    }
    with contextlib.ExitStack() as outage:
        for name, site in sites.items():
            outage.enter_context(locked(site, name.partition("_")[2]))
        go_through(list(sites.values()), outage.pop_all(), 14)
