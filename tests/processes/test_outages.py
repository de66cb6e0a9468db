"""After an outage of the inbox that is longer than a lease, no callback runs again.

During the outage no lease can be renewed and no success recorded. Stripe continues to deliver. All
processes reach the inbox again at the same moment.
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
"""Callbacks that run in two processes when the outage starts."""
PAST_GRACE = LEASE + 2 + 3
"""Seconds, with a margin, until an orphan would be rescued."""


@pytest.fixture
def lab(tmp_path: Path, make_handlers: Callable[..., str]) -> Iterator[Lab]:
    """Services whose callbacks the test controls. They end with the test."""
    name = make_handlers(**{EVENT_TYPE.replace(".", "_"): HANDLER})
    lab = Lab(tmp_path / "packages" / name)
    try:
        yield lab
    finally:
        lab.close()


def start(lab: Lab, name: str, mode: str, url: str) -> Site:
    """Start two services, neither with a thread for all callbacks, and hold the callbacks."""
    site = Site.start(lab, name, mode, url, WORKER_THREADS=EVENTS - 2, LEASE_SECONDS=LEASE)
    for number in range(EVENTS):
        site.hold(number)
    return site


def go_through(
    sites: list[Site], outage: contextlib.AbstractContextManager[object], seconds: float
) -> None:
    """Let callbacks end during an ``outage`` of so many ``seconds``, and the last one after it.

    Each callback runs once. Its success is recorded, and every service answers ``duplicate``.
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
    """Start services in both modes, each with its own database on one ``server``."""
    engine = raw_sql.make_engine(server.url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for mode in MODES:
            connection.execute(sa.text(f"CREATE DATABASE {mode}"))
    engine.dispose()
    urls = [engine.url.set(database=mode).render_as_string(hide_password=False) for mode in MODES]
    return [start(lab, mode, mode, url) for mode, url in zip(MODES, urls, strict=True)]


@contextlib.contextmanager
def stopped(server: Postgresql) -> Iterator[None]:
    """Stop the server: it refuses connections in the block."""
    server.stop()
    try:
        yield
    finally:
        server.start()


@pytest.mark.parametrize("outage", [stopped, Postgresql.frozen])
def test_outage_of_postgresql_longer_than_a_lease(
    lab: Lab,
    own_postgresql: Postgresql,
    outage: Callable[[Postgresql], contextlib.AbstractContextManager[None]],
) -> None:
    """Every callback runs once, whether the server refuses connections or does not answer."""
    go_through(start_on(lab, own_postgresql), outage(own_postgresql), 5)


@pytest.mark.parametrize("mode", MODES)
def test_locked_rows_cost_no_other_lease(lab: Lab, postgresql_url: str, mode: str) -> None:
    """A person locks rows of one process for long. Its other events keep their leases."""
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

#: Tools that block writes to a file until their standard input ends.
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


AGAIN = [*ONCE, ("start", 2), ("end", 2)]
"""The acts of an event whose callback succeeded, and ran again."""


@contextlib.contextmanager
def locked(site: Site, tool: str) -> Iterator[None]:
    """Let another process block writes to the inbox."""
    command = [sys.executable, "-c", TOOLS[tool], str(sa.make_url(site.url).database)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        yield
        process.communicate()


def test_sqlite_is_locked_for_longer_than_a_lease(lab: Lab, tmp_path: Path) -> None:
    """Every callback runs once, whether the tool holds SQLite's lock or the service's."""
    sites = {
        f"{mode}_{tool}": start(lab, f"{mode}_{tool}", mode, f"sqlite:///{tmp_path}/{mode}_{tool}")
        for mode in MODES
        for tool in TOOLS
    }
    with contextlib.ExitStack() as outage:
        for name, site in sites.items():
            outage.enter_context(locked(site, name.partition("_")[2]))
        go_through(list(sites.values()), outage.pop_all(), 14)


@pytest.mark.parametrize("mode", MODES)
def test_stop_during_an_outage_loses_results(lab: Lab, tmp_path: Path, mode: str) -> None:
    """The process exits with the grace period. The callback that succeeded runs again."""
    url = f"sqlite:///{tmp_path}/{mode}"
    settings: dict[str, Any] = {"WEB_CONCURRENCY": 1, "PROCESSING": mode, "LEASE_SECONDS": LEASE}
    first = lab.start(url, "--graceful-timeout", "3", **settings)
    site = Site(lab, mode, mode, url, [first])
    site.hold()
    with locked(site, "writes"):
        site.release()
        wait_for(lambda: '"outcome": "unavailable"' in first.log, DEADLINE)
        first.terminate()
        first.assert_stopped()
    assert lab.account(site.event()) == ONCE
    site.services = [lab.start(url, **settings)]
    with redelivered([site]):
        wait_for(site.are_settled, DEADLINE)
    assert lab.account(site.event()) == AGAIN
