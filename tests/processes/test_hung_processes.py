"""Processes that cannot renew their leases because none of their threads runs.

A callback holds the interpreter's lock in one call of C, or the whole process is stopped. Such a
process has to end itself before its event starts elsewhere, or as soon as it goes on.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.runtime.watchdog import _open_standard_error
from tests.support.services import (
    DEADLINE,
    EVENT_TYPE,
    HANDLER,
    Lab,
    find,
    is_alive,
    stop_process,
)
from tests.support.sites import DONE, Site, let_pass, processes_of, redelivered, watch_end
from tests.support.waiting import wait_for

MODULE = EVENT_TYPE.replace(".", "_")
MODES = ["inline", "queue"]
LEASE = 3
PAST_GRACE = LEASE + 2 + 1.5
"""Seconds, with a margin, until the event of a dead process is rescued."""
AGAIN = [("start", 1), ("start", 2), ("end", 2)]
"""The history of an event: its first attempt ended with the process."""
CRASHED = ["crashed", "handled"]
"""Its history: the first process has recorded nothing."""


@pytest.fixture
def lab(tmp_path: Path, make_handlers: Callable[..., str]) -> Iterator[Lab]:
    """Services with callbacks that do as they are told, ended with the test."""
    name = make_handlers(**{MODULE: HANDLER})
    lab = Lab(tmp_path / "packages" / name)
    try:
        yield lab
    finally:
        lab.close()


@pytest.fixture
def start(
    lab: Lab, tmp_path: Path, make_postgresql_url: Callable[[], str]
) -> Callable[[str, str], Site]:
    """A function that starts two services in a mode, with a database of their own."""

    def start(mode: str, database: str) -> Site:
        name = f"{mode}_{database}"
        sqlite = f"sqlite:///{tmp_path}/{name}/inbox.sqlite3"
        url = sqlite if database == "sqlite" else make_postgresql_url()
        return Site.start(lab, name, mode, url, LEASE_SECONDS=LEASE)

    return start


@pytest.fixture
def sites(start: Callable[[str, str], Site]) -> list[Site]:
    """Two services in each mode, with each database."""
    return [start(mode, database) for mode in MODES for database in ("sqlite", "postgresql")]


def test_process_whose_interpreter_is_held_ends_before_its_event_runs_elsewhere(
    lab: Lab, sites: list[Site]
) -> None:
    """It cannot renew, and its callback goes on: it has to be gone by then. It says where it was.

    The process ends itself, and its callback has not returned.
    """
    for site in sites:
        lab.tell("hang", site.event())
        site.deliver()
    pids = [site.starts().pid for site in sites]
    ends = [watch_end(lab, pid) for pid in pids]

    with redelivered(sites, besides=pids):
        for site in sites:
            wait_for(site.are_settled, DEADLINE)

    for site, end in zip(sites, ends, strict=True):
        assert lab.account(site.event()) == AGAIN, site.name
        assert site.starts(attempt=2).at > end.result(DEADLINE), site.name
        assert site.history() == CRASHED, site.name
        assert "Timeout (" in site.log, site.name
        assert f"{MODULE}.py" in site.log, site.name


def test_stopped_process_settles_and_claims_nothing_when_it_goes_on(
    lab: Lab, sites: list[Site]
) -> None:
    """Its event was taken over, and what it was about to do is no longer its own: it ends.

    Neither the success of its callback counts, nor does it take another event.
    """
    pids = [site.hold() for site in sites]
    ends = [watch_end(lab, pid) for pid in pids]
    for site, pid in zip(sites, pids, strict=True):
        lab.tell("hold", site.event(), attempt=2)
        stop_process(pid, site.url)
    with redelivered(sites, besides=pids), released(lab.package, "*.2.hold"):
        others = [site.starts(attempt=2).pid for site in sites]
        for site, pid in zip(sites, pids, strict=True):
            site.release()
            os.kill(pid, signal.SIGCONT)
        for site, end, other in zip(sites, ends, others, strict=True):
            end.result(DEADLINE)
            if site.mode == "inline":
                with pytest.raises(ConnectionError):
                    site.answers[site.event()].result(DEADLINE)
            event = find(site.url, site.event())
            assert (event.state, event.outcome, event.attempt) == ("running", None, 2), site.name
            assert is_alive(other), site.name
            assert lab.started(site.event(), 3) == [], site.name
            wait_for(site.says_why, DEADLINE)
            assert "claim_lost" not in site.log, site.name  # it did not even try to settle
    for site in sites:
        site.comes_to(("done", "handled", 2))
        assert site.history() == CRASHED, site.name


@contextlib.contextmanager
def released(package: Path, pattern: str) -> Iterator[None]:
    """Let the callbacks end that are held by such files when the block is left."""
    try:
        yield
    finally:
        for gate in package.glob(pattern):
            gate.unlink()


def test_idle_process_that_was_stopped_lives_on(lab: Lab, sites: list[Site]) -> None:
    """It holds no claim, so there is nothing that it could do wrong."""
    services = [(site, service) for site in sites for service in site.services]
    for _, service in services:
        wait_for(service.is_ready, DEADLINE)
    workers = {pid: site for site, service in services for pid in processes_of(service)}
    for pid, site in workers.items():
        stop_process(pid, site.url)
    let_pass(PAST_GRACE)
    for pid in workers:
        os.kill(pid, signal.SIGCONT)

    for number, (site, service) in enumerate(services):
        assert service.deliver(site.event(number)).status == 200
        site.comes_to(DONE, number)
    assert [pid for pid in workers if not is_alive(pid)] == []
    assert {each.pid for each in lab.journal()} <= set(workers)


#: Runs gunicorn, and stops reading its standard error when a file is there.
DEAF = """
import os, subprocess, sys, time
from pathlib import Path

source, target = os.pipe()
process = subprocess.Popen([sys.executable, "-m", "gunicorn", *sys.argv[1:]], stderr=target)
file = Path(os.environ["DEAF"])
os.set_blocking(source, False)
while not file.exists():
    try:
        os.write(2, os.read(source, 65536))
    except BlockingIOError:
        time.sleep(0.01)
filling = os.open(f"/proc/self/fd/{target}", os.O_WRONLY | os.O_NONBLOCK)
for size in (4096, 1):
    try:
        while True:
            os.write(filling, b"." * size)
    except BlockingIOError:
        pass
file.unlink()
process.wait()
"""


@pytest.fixture
def deaf(lab: Lab, sqlite_url: str) -> Site:
    """Two services. The first one runs an event, and its standard error is no longer read."""
    file = lab.package / "deaf"
    settings = {"LEASE_SECONDS": LEASE, "WEB_CONCURRENCY": 1, "DEAF": file}
    services = [
        lab.start(sqlite_url, launcher=launcher, **settings)
        for launcher in (("-c", DEAF), ("-m", "gunicorn"))
    ]
    site = Site(lab, "deaf", "inline", sqlite_url, services)
    wait_for(services[1].is_ready, DEADLINE)
    site.hold()
    file.touch()
    wait_for(lambda: not file.exists(), DEADLINE)
    return site


def test_process_whose_lines_are_not_read_keeps_its_event(lab: Lab, deaf: Site) -> None:
    """It says that the callback still runs, which blocks, and renews its lease all the same."""
    other = Site(lab, deaf.name, deaf.mode, deaf.url, deaf.services[1:], answers=deaf.answers)
    with redelivered([other]):
        let_pass(5 * LEASE)
        deaf.release()
        deaf.comes_to(DONE)
    assert lab.account(deaf.event()) == [("start", 1), ("end", 1)]


@pytest.mark.parametrize("how", ["hangs", "is stopped"])
def test_process_whose_lines_are_not_read_ends_itself_all_the_same(
    lab: Lab, deaf: Site, how: str
) -> None:
    """What it has to say may not be taken. Its event starts elsewhere when it is gone."""
    pid = deaf.starts().pid
    end = watch_end(lab, pid)
    if how == "hangs":
        lab.tell("hang", deaf.event())
        deaf.release()
        other = Site(lab, deaf.name, deaf.mode, deaf.url, deaf.services[1:], answers=deaf.answers)
        with redelivered([other]):
            deaf.comes_to(("done", "handled", 2))
        assert deaf.starts(attempt=2).at > end.result(DEADLINE)
    else:
        stop_process(pid, deaf.url)
        let_pass(PAST_GRACE)
        os.kill(pid, signal.SIGCONT)
        end.result(DEADLINE)
    assert ("end", 1) not in lab.account(deaf.event())


@pytest.mark.parametrize("kind", ["file", "pipe", "closed"])
def test_standard_error_is_opened_anew_only_where_it_can_block(kind: str, tmp_path: Path) -> None:
    """A file takes all, and what is written to it by two descriptors would be mixed up."""
    source, target = os.pipe()
    if kind == "file":
        target = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    spare = os.dup(2)
    os.dup2(target, 2)
    if kind == "closed":
        os.close(2)
    try:
        opened = _open_standard_error()
    finally:
        os.dup2(spare, 2)

    assert (opened != 2) == (kind == "pipe")
    assert os.get_blocking(opened) == (kind != "pipe")
    os.close(source)
