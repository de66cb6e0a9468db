"""Processes that cannot renew their leases because none of their threads runs.

A callback holds the GIL in one C call, or the process is stopped. Such a process must end itself
before its event runs elsewhere, or as soon as it is continued.

"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from app.runtime.watchdog import _open_standard_error
from tests.support.services import (
    DEADLINE,
    MODULE,
    Lab,
    find,
    is_alive,
    stop_process,
)
from tests.support.sites import DONE, Site, let_pass, processes_of, redelivered, watch_end
from tests.support.waiting import wait_for

MODES = ["inline", "queue"]
LEASE = 3
PAST_GRACE = LEASE + 2 + 1.5
"""Seconds, with a margin, until the event of a dead process is rescued."""
AGAIN = [("start", 1), ("start", 2), ("end", 2)]
"""The journal of an event whose first attempt ended with its process."""
CRASHED = ["crashed", "handled"]
"""The outcomes in the inbox of such an event."""


#: Its threads run in turn, for ever.
BUSY_THREADS = """
import threading, time

def run():
    while True:
        sum(range(1_000))
        time.sleep(0.0005)

for _ in range(4):
    threading.Thread(target=run, daemon=True).start()
print(flush=True)
threading.Event().wait()
"""


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


def test_no_thread_of_a_stopped_process_runs(tmp_path: Path) -> None:
    """The tests stop a process with all its threads, so that none takes the lock of its file."""
    (tmp_path / "inbox.sqlite3.lock").touch()
    command = [sys.executable, "-c", BUSY_THREADS]

    def threads() -> Iterator[Path]:
        return Path(f"/proc/{process.pid}/task").glob("*/stat")

    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"\n"
            for _ in range(50):
                stop_process(process.pid, f"sqlite:///{tmp_path}/inbox.sqlite3")
                states = [each.read_text().rpartition(") ")[2][0] for each in threads()]
                assert states == ["T"] * 5
                process.send_signal(signal.SIGCONT)
        finally:
            process.kill()


def has_ended(pid: int) -> bool:
    """Return whether a process of a service is gone."""
    return not is_alive(pid)


def test_process_without_the_gil_ends_before_its_event_runs_elsewhere(
    lab: Lab, sites: list[Site]
) -> None:
    """The process cannot renew its lease, so it ends itself. It logs the stacks of its threads.

    Its callback has not returned by then.

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


def test_continued_process_records_and_claims_nothing(lab: Lab, sites: list[Site]) -> None:
    """A continued process ends itself, because its event was taken over.

    The success of its callback does not count, and it claims no other event.

    """
    pids = [site.hold() for site in sites]
    for site, pid in zip(sites, pids, strict=True):
        lab.tell("hold", site.event(), attempt=2)
        stop_process(pid, site.url)
    with redelivered(sites, besides=pids), released(lab.package, "*.2.hold"):
        others = [site.starts(attempt=2).pid for site in sites]
        for site, pid in zip(sites, pids, strict=True):
            site.release()
            os.kill(pid, signal.SIGCONT)
        for site, pid, other in zip(sites, pids, others, strict=True):
            wait_for(partial(has_ended, pid), DEADLINE)
            if site.mode == "inline":
                with pytest.raises(ConnectionError):
                    site.answers[site.event()].result(DEADLINE)
            event = find(site.url, site.event())
            assert (event.state, event.outcome, event.attempt) == ("running", None, 2), site.name
            assert is_alive(other), site.name
            assert lab.started(site.event(), 3) == [], site.name
            wait_for(site.says_why, DEADLINE)
            assert "claim_lost" not in site.log, site.name  # it did not try to record a result
    for site in sites:
        site.comes_to(("done", "handled", 2))
        assert site.history() == CRASHED, site.name


@contextlib.contextmanager
def released(package: Path, pattern: str) -> Iterator[None]:
    """Let the callbacks that these files hold return after the block."""
    try:
        yield
    finally:
        for gate in package.glob(pattern):
            gate.unlink()


def test_idle_process_survives_a_stop(lab: Lab, sites: list[Site]) -> None:
    """It holds no claim, so it may continue."""
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


#: Runs gunicorn, and stops reading its standard error once a file exists.
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
def silent(lab: Lab, sqlite_url: str) -> Site:
    """Two services. The first one runs an event, and its standard error is no longer read."""
    file = lab.package / "unread"
    settings = {"LEASE_SECONDS": LEASE, "WEB_CONCURRENCY": 1, "DEAF": file}
    services = [
        lab.start(sqlite_url, launcher=launcher, **settings)
        for launcher in (("-c", DEAF), ("-m", "gunicorn"))
    ]
    site = Site(lab, "unread", "inline", sqlite_url, services)
    wait_for(services[1].is_ready, DEADLINE)
    site.hold()
    file.touch()
    wait_for(lambda: not file.exists(), DEADLINE)
    return site


def test_process_with_blocked_log_keeps_its_event(lab: Lab, silent: Site) -> None:
    """Its warning about the running callback blocks, but its lease is renewed."""
    other = Site(
        lab, silent.name, silent.mode, silent.url, silent.services[1:], answers=silent.answers
    )
    with redelivered([other]):
        let_pass(5 * LEASE)
        silent.release()
        silent.comes_to(DONE)
    assert lab.account(silent.event()) == [("start", 1), ("end", 1)]


@pytest.mark.parametrize("how", ["hangs", "is stopped"])
def test_process_with_blocked_log_ends_itself(lab: Lab, silent: Site, how: str) -> None:
    """Its log lines block, but its event runs elsewhere only after its end."""
    pid = silent.starts().pid
    end = watch_end(lab, pid)
    if how == "hangs":
        lab.tell("hang", silent.event())
        silent.release()
        other = Site(
            lab, silent.name, silent.mode, silent.url, silent.services[1:], answers=silent.answers
        )
        with redelivered([other]):
            silent.comes_to(("done", "handled", 2))
        assert silent.starts(attempt=2).at > end.result(DEADLINE)
    else:
        stop_process(pid, silent.url)
        let_pass(PAST_GRACE)
        os.kill(pid, signal.SIGCONT)
        end.result(DEADLINE)
    assert ("end", 1) not in lab.account(silent.event())


@pytest.mark.parametrize("kind", ["file", "pipe", "closed"])
def test_standard_error_is_reopened_only_where_it_can_block(kind: str, tmp_path: Path) -> None:
    """A write to a file never blocks, and two descriptors of one file would overwrite lines."""
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
