"""Queue mode with real processes: killed, stopped, hung, with wrong clocks, without their database.

Callbacks write a journal, and the tests read it.

"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import resource
import signal
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

import pytest

from app.inbox import Inbox
from app.inbox.filters import EventFilter
from tests.support import network, raw_sql
from tests.support.pace import Pace
from tests.support.services import (
    ACCEPTED,
    DEADLINE,
    DUPLICATE,
    EVENT,
    HANDLED,
    NO_INBOX,
    ONCE,
    Entry,
    Lab,
    Postgresql,
    Service,
    ask_inbox,
    children_of,
    count_done,
    find,
    says_why,
    skip_without_prlimit,
    state,
)
from tests.support.sites import let_pass, watch_end
from tests.support.waiting import wait_for

DONE = ("done", "handled", 1)
MANY = [f"evt_{number}@{number % 700}" for number in range(2000)]
"""The number of events in the chaos tests, about three for each object."""
KILLS = 12
"""So many processes are killed during the deliveries, or one less."""


def start(lab: Lab, database_url: str, *options: str, **settings: Any) -> Service:
    """Start a service in queue mode."""
    return lab.start(database_url, *options, PROCESSING="queue", **settings)


def comes_to(database_url: str, expected: tuple[str, str | None, int], event: str = EVENT) -> None:
    """Wait until the event has this state, outcome and attempt."""
    wait_for(lambda: state(database_url, event) == expected, DEADLINE)


def has_started(lab: Lab, attempt: int = 1, event: str = EVENT) -> None:
    """Wait until the attempt has begun."""
    wait_for(lambda: bool(lab.started(event, attempt)), DEADLINE)


def history(database_url: str, event_id: str = EVENT) -> list[str]:
    """Return the outcomes of the attempts of an event."""
    attempts = ask_inbox(database_url, lambda inbox: inbox.administration.attempts(event_id))
    return [each.outcome for each in attempts]


# One container, or several


@pytest.mark.measured
def test_one_container_is_enough(lab: Lab, database_url: str) -> None:
    """The web processes run the events that they have accepted."""
    service = start(lab, database_url)

    assert service.deliver(EVENT).brief == ACCEPTED
    comes_to(database_url, DONE)
    assert service.deliver(EVENT).brief == DUPLICATE
    assert lab.account(EVENT) == ONCE


def test_worker_runs_what_others_answered(lab: Lab, database_url: str) -> None:
    """With WORKER_THREADS=0 a web process runs nothing. A worker process finds its events."""
    service = start(lab, database_url, WORKER_THREADS=0)
    assert service.deliver(EVENT).brief == ACCEPTED
    assert service.deliver(EVENT).brief == ACCEPTED
    assert state(database_url, EVENT) == ("pending", None, 0)

    worker = lab.start_worker(database_url, "--threads", "2")
    comes_to(database_url, DONE)
    wait_for(lambda: "worker_started" in worker.log, DEADLINE)
    service.deliver("evt_2")
    comes_to(database_url, DONE, "evt_2")

    assert {entry.pid for entry in lab.journal()} == {worker.process.pid}


@pytest.mark.measured
def test_worker_starts_before_its_database(lab: Lab, own_postgresql: Postgresql) -> None:
    """It logs the outage once, waits, and works as soon as the database starts."""
    own_postgresql.stop()
    worker = lab.start_worker(own_postgresql.url)
    wait_for(lambda: "inbox_unavailable_at_start" in worker.log, DEADLINE)
    wait_for(lambda: '"inbox_unavailable"' in worker.log, DEADLINE)
    own_postgresql.start()
    service = start(lab, own_postgresql.url, WORKER_THREADS=0)

    wait_for(service.is_ready, DEADLINE)
    service.deliver(EVENT)
    comes_to(own_postgresql.url, DONE)


def test_mode_can_change_at_any_restart(lab: Lab, database_url: str) -> None:
    """A worker runs events that inline mode left pending, and the reverse."""
    inline = lab.start(database_url)
    lab.tell("fail", "evt_failed", attempt=1)
    inline.deliver("evt_failed")
    inline.deliver("evt_done")
    inline.terminate()
    assert inline.wait() == 0

    queue = start(lab, database_url, RETRY_BASE_SECONDS=3600)
    comes_to(database_url, ("done", "handled", 2), "evt_failed")
    assert queue.deliver("evt_done").brief == DUPLICATE
    lab.tell("fail", "evt_late", attempt=1)
    queue.deliver("evt_late")
    comes_to(database_url, ("pending", "failed", 1), "evt_late")
    queue.terminate()
    assert queue.wait() == 0

    inline = lab.start(database_url)
    assert inline.deliver("evt_late").brief == HANDLED
    assert state(database_url, "evt_late") == ("done", "handled", 2)


def test_pause_survives_restarts(lab: Lab, database_url: str) -> None:
    """During a pause deliveries are accepted, and no event runs until it is resumed."""
    with contextlib.closing(Inbox(database_url, lease_seconds=1)) as inbox:
        inbox.administration.pause(by="test", why=None)
        for _ in range(2):
            service = start(lab, database_url)
            assert service.deliver(EVENT).brief == ACCEPTED
            assert service.is_ready()
            service.terminate()
            assert service.wait() == 0
        assert lab.journal() == []

        service = start(lab, database_url)
        wait_for(service.is_ready, DEADLINE)
        inbox.administration.resume(by="me")
    comes_to(database_url, DONE)


# Stop


def test_stop_waits_for_a_callback(lab: Lab, database_url: str) -> None:
    """After SIGTERM no event is claimed, running callbacks return, and the status is 0."""
    service = start(lab, database_url, WORKER_THREADS=1, WEB_CONCURRENCY=1)
    release = lab.tell("hold", EVENT)
    service.deliver(EVENT)
    has_started(lab)
    service.deliver("evt_2")

    service.terminate()
    wait_for(service.refuses, DEADLINE)
    release.unlink()

    assert service.wait() == 0
    assert state(database_url, EVENT) == DONE
    assert state(database_url, "evt_2") == ("pending", None, 0)


@pytest.mark.measured
def test_stopping_worker_waits_for_a_callback(lab: Lab, database_url: str) -> None:
    """The same holds for SIGTERM to a worker process."""
    service = start(lab, database_url, WORKER_THREADS=0)
    worker = lab.start_worker(database_url, "--threads", "1")
    release = lab.tell("hold", EVENT)
    service.deliver(EVENT)
    has_started(lab)
    service.deliver("evt_2")

    worker.terminate()
    release.unlink()

    assert worker.wait() == 0
    assert state(database_url, EVENT) == DONE
    assert "worker_ended" in worker.log


#: Makes each claim slow.
SLOW_CLAIM = [
    """CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
       'BEGIN PERFORM pg_sleep(2); RETURN NEW; END'""",
    """CREATE TRIGGER slow BEFORE UPDATE ON events FOR EACH ROW
       WHEN (NEW.state = 'running') EXECUTE FUNCTION slow()""",
]
IS_CLAIMED = "(SELECT * FROM pg_stat_activity WHERE wait_event = 'PgSleep') AS claims"


@pytest.mark.parametrize("kind", ["web", "worker"])
def test_stop_waits_for_a_claim_in_progress(lab: Lab, postgresql_url: str, kind: str) -> None:
    """Otherwise its event would be an orphan for two leases, and its callback interrupted."""
    service = start(lab, postgresql_url, WORKER_THREADS=int(kind == "web"), WEB_CONCURRENCY=1)
    wait_for(service.is_ready, DEADLINE)
    for each in SLOW_CLAIM:
        raw_sql.execute(postgresql_url, each)
    service.deliver(EVENT)
    process = service if kind == "web" else lab.start_worker(postgresql_url, "--threads", "1")
    wait_for(lambda: raw_sql.select(postgresql_url, IS_CLAIMED), DEADLINE)

    process.terminate()

    assert process.wait() == 0
    assert state(postgresql_url, EVENT) == DONE
    assert lab.account(EVENT) == ONCE


@pytest.mark.parametrize("kind", ["web", "worker"])
def test_event_that_outlasts_the_grace_period_is_released(
    lab: Lab, database_url: str, kind: str
) -> None:
    """The event is released: the next process claims it long before the lease would have ended."""
    service = start(
        lab,
        database_url,
        *("--graceful-timeout", "2"),
        WORKER_THREADS=1 if kind == "web" else 0,
        LEASE_SECONDS=3600,
    )
    process = service
    if kind == "worker":
        process = lab.start_worker(database_url, "--grace", "0.2", LEASE_SECONDS=3600)
    lab.tell("hold", EVENT)
    service.deliver(EVENT)
    has_started(lab)

    process.terminate()
    process.assert_stopped()
    assert state(database_url, EVENT) == ("pending", "released", 1)
    lab.start_worker(database_url, LEASE_SECONDS=3600)

    comes_to(database_url, ("done", "handled", 2))
    assert lab.account(EVENT) == [("start", 1), ("start", 2), ("end", 2)]
    assert history(database_url) == ["released", "handled"]


#: Makes each release slow, as on a loaded server.
SLOW_RELEASE = [
    """CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
       'BEGIN PERFORM pg_sleep(0.3); RETURN NEW; END'""",
    """CREATE TRIGGER slow BEFORE UPDATE ON events FOR EACH ROW
       WHEN (NEW.outcome = 'released') EXECUTE FUNCTION slow()""",
]


@pytest.mark.parametrize("kind", ["web", "worker"])
def test_nothing_is_given_back_that_still_runs(lab: Lab, postgresql_url: str, kind: str) -> None:
    """However long the releases take, no event runs elsewhere before its process has ended.

    The server is slow, and after the first event its answers are lost.

    """
    held = [f"evt_{number}" for number in range(4)]
    settings: dict[str, Any] = {"WEB_CONCURRENCY": 1, "LEASE_SECONDS": 3}
    path = network.Path(postgresql_url)
    web = start(lab, postgresql_url, WORKER_THREADS=0, **settings)
    wait_for(web.is_ready, DEADLINE)
    for each in SLOW_RELEASE:
        raw_sql.execute(postgresql_url, each)
    if kind == "web":
        stopped = start(lab, path.url, "--graceful-timeout", "2", **settings)
    else:
        stopped = lab.start_worker(path.url, "--grace", "0.2", "--threads", "4", **settings)
    for event_id in held:
        lab.tell("hold", event_id)
        web.deliver(event_id)
        has_started(lab, event=event_id)
    end = watch_end(lab, lab.started(held[0], 1)[0].pid)
    other = lab.start_worker(postgresql_url, "--threads", "4", **settings)
    wait_for(lambda: "worker_started" in other.log, DEADLINE)

    stopped.terminate()
    states = partial(map, partial(state, postgresql_url), held)
    wait_for(lambda: end.done() or ("pending", "released", 1) in states(), DEADLINE)
    path.swallow_answers()
    for event_id in held:
        comes_to(postgresql_url, ("done", "handled", 2), event_id)
    path.close()

    stopped.assert_stopped()
    early = [each for each in held if lab.started(each, 2)[0].at <= end.result(DEADLINE)]
    assert early == []


# Crashes


def test_event_of_a_killed_worker_runs_again(lab: Lab, database_url: str) -> None:
    """After SIGKILL in a callback another process runs the event when its lease has ended."""
    service = start(lab, database_url, WORKER_THREADS=0)
    settings = {"LEASE_SECONDS": 2}
    lab.tell("hold", EVENT)
    killed = lab.start_worker(database_url, **settings)
    service.deliver(EVENT)
    has_started(lab)
    lease_end = find(database_url, EVENT).lease_until
    assert lease_end is not None

    killed.process.kill()
    lab.start_worker(database_url, **settings)
    comes_to(database_url, ("done", "handled", 2))
    claimed_at = find(database_url, EVENT).claimed_at

    assert claimed_at is not None
    assert claimed_at >= lease_end
    assert lab.account(EVENT) == [("start", 1), ("start", 2), ("end", 2)]
    assert history(database_url) == ["crashed", "handled"]


def test_poison_event_is_dead_after_max_crashes(lab: Lab, database_url: str) -> None:
    """An event that ends its process is dead after MAX_CRASHES."""
    for attempt in (1, 2, 3):
        lab.tell("exit", EVENT, attempt)
    service = start(lab, database_url, LEASE_SECONDS=1, MAX_CRASHES=2)
    with contextlib.suppress(ConnectionError):  # it may end the process that is to answer
        service.deliver(EVENT)
    comes_to(database_url, ("dead", "crashed", 2))
    wait_for(lambda: service.deliver("evt_other").status == 200, DEADLINE)
    comes_to(database_url, DONE, "evt_other")

    assert lab.account(EVENT) == [("start", 1), ("start", 2)]
    assert history(database_url) == ["crashed", "crashed"]


def test_long_callback_keeps_its_event(lab: Lab, database_url: str) -> None:
    """A callback of three leases runs once, with idle workers beside it."""
    service = start(lab, database_url, LEASE_SECONDS=1)
    release = lab.tell("hold", EVENT)
    service.deliver(EVENT)
    has_started(lab)
    let_pass(3.5)
    release.unlink()

    comes_to(database_url, DONE)
    assert lab.account(EVENT) == ONCE


def test_stopped_worker_cannot_change_another_attempt(lab: Lab, postgresql_url: str) -> None:
    """A process that is continued after its lease ends itself, and changes nothing of its event."""
    service = start(lab, postgresql_url, WORKER_THREADS=0)
    stopped = lab.start_worker(postgresql_url, LEASE_SECONDS=1)
    first = lab.tell("hold", EVENT)
    second = lab.tell("hold", EVENT, attempt=2)
    service.deliver(EVENT)
    has_started(lab)

    stopped.process.send_signal(signal.SIGSTOP)
    lab.start_worker(postgresql_url, LEASE_SECONDS=1)
    has_started(lab, attempt=2)
    lab.tell("fail", EVENT, attempt=1)
    first.unlink()
    stopped.process.send_signal(signal.SIGCONT)
    assert stopped.wait() != 0
    stopped.end()
    wait_for(lambda: says_why(stopped.log), DEADLINE)
    assert "claim_lost" not in stopped.log  # it did not try
    assert state(postgresql_url, EVENT) == ("running", None, 2)
    second.unlink()

    comes_to(postgresql_url, ("done", "handled", 2))
    assert history(postgresql_url) == ["crashed", "handled"]


#: Runs the service with a clock that is wrong by this many seconds.
WRONG_CLOCK = """
import runpy, sys, time
right = time.time
time.time = lambda: right() + {seconds}
sys.argv = ["gunicorn", *sys.argv[1:]]
runpy.run_module("gunicorn", run_name="__main__")
"""


def test_clocks_of_replicas_do_not_matter(lab: Lab, database_url: str) -> None:
    """Replicas two minutes apart do not claim each other's running events, and delay no due one.

    Two services with wrong clocks hold an event each. A third has idle threads. It runs the events
    that the first two record while they are busy.

    """
    settings: dict[str, Any] = {"PROCESSING": "queue", "LEASE_SECONDS": 3, "WEB_CONCURRENCY": 1}
    wrong = [
        lab.start(
            database_url,
            launcher=("-c", WRONG_CLOCK.format(seconds=seconds)),
            WORKER_THREADS=1,
            **settings,
        )
        for seconds in (120, -120)
    ]
    gates = [lab.tell("hold", f"evt_{number}") for number in range(2)]
    for number, service in enumerate(wrong):
        assert service.deliver(f"evt_{number}").brief == ACCEPTED
        has_started(lab, event=f"evt_{number}")
    lab.start(database_url, **settings)
    for number, service in enumerate(wrong, start=2):
        assert service.deliver(f"evt_{number}").brief == ACCEPTED
        comes_to(database_url, DONE, f"evt_{number}")
    let_pass(4)  # more than a lease
    for gate in gates:
        gate.unlink()

    for number in range(4):
        comes_to(database_url, DONE, f"evt_{number}")
        assert lab.account(f"evt_{number}") == ONCE


# Outages of the inbox


def test_outage_of_postgresql(lab: Lab, own_postgresql: Postgresql) -> None:
    """Without its server: 503, and no 2xx. After the outage all events run without a restart."""
    service = start(lab, own_postgresql.url)
    release = lab.tell("hold", EVENT)
    service.deliver(EVENT)
    has_started(lab)

    own_postgresql.stop()
    answers = [service.deliver(f"evt_lost_{number}") for number in range(20)]
    release.unlink()
    assert {(answer.brief, answer.retry_after) for answer in answers} == {(NO_INBOX, 5)}
    own_postgresql.start()
    wait_for(service.is_ready, DEADLINE)

    comes_to(own_postgresql.url, DONE)
    assert service.deliver("evt_2").brief == ACCEPTED
    comes_to(own_postgresql.url, DONE, "evt_2")
    assert lab.account(EVENT) == ONCE


def test_full_disk(lab: Lab, sqlite_url: str) -> None:
    """While SQLite's file cannot grow: 503, and no 2xx. No restart is needed after that."""
    skip_without_prlimit()
    service = start(lab, sqlite_url, WEB_CONCURRENCY=1)
    release = lab.tell("hold", "evt_running")
    service.deliver("evt_running")
    has_started(lab, event="evt_running")
    (entry,) = lab.started("evt_running", 1)
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)

    resource.prlimit(entry.pid, resource.RLIMIT_FSIZE, (2048, most))
    answer = service.deliver("evt_during")
    release.unlink()
    assert (answer.brief, answer.retry_after) == (NO_INBOX, 5)
    resource.prlimit(entry.pid, resource.RLIMIT_FSIZE, (most, most))
    wait_for(service.is_ready, DEADLINE)

    comes_to(sqlite_url, DONE, "evt_running")
    assert service.deliver("evt_during").brief == ACCEPTED
    comes_to(sqlite_url, DONE, "evt_during")
    assert lab.account("evt_running") == lab.account("evt_during") == ONCE


# Chaos


class Chaos:
    """Processes of a service that are killed at random and started again."""

    def __init__(self, lab: Lab, start_all: list[Callable[[], Service]]) -> None:
        """Start all of them."""
        self.lab = lab
        self.start_all = start_all
        self.random = random.Random(20261125)  # noqa: S311 - the same chaos every time
        self.processes = [start_one() for start_one in start_all]
        self.pace = Pace(kills=KILLS, deliveries=len(MANY))

    def web(self) -> Service:
        """Return a process that answers requests."""
        return self.random.choice([each for each in self.processes if "gunicorn" in command(each)])

    def kill_one(self) -> None:
        """Kill one of the processes, or a child of it, with SIGKILL, and start it again."""
        number = self.random.randrange(len(self.processes))
        victim = self.processes[number]
        children = children_of(victim.process.pid)
        if children and self.random.random() < 0.5:
            with contextlib.suppress(ProcessLookupError):  # it may have ended by itself
                os.kill(self.random.choice(children), signal.SIGKILL)
                self.pace.killed += 1
            return
        if victim.process.poll() is None:
            os.killpg(victim.process.pid, signal.SIGKILL)
            self.pace.killed += 1
        victim.process.wait(DEADLINE)
        self.processes[number] = self.start_all[number]()

    def kill_until(self) -> None:
        """Kill processes in step with the deliveries, at most about one a second."""
        while self.pace.wait_to_kill(self.random.uniform(0.6, 1.2)):
            self.kill_one()


def command(service: Service) -> str:
    """Return the arguments with which a process was started."""
    return " ".join(map(str, service.process.args))  # type: ignore[arg-type]  # a list


def deliver_all(chaos: Chaos, lab: Lab) -> dict[str, int]:
    """Deliver MANY events as Stripe does: until a 2xx. Returns the deliveries of each event."""
    waiting = iter(enumerate(MANY))
    deliveries: dict[str, int] = {}

    def deliver() -> None:
        for number, event_id in waiting:
            chaos.pace.wait_to_deliver(number)
            for times in itertools.count(1):
                with contextlib.suppress(OSError, AssertionError):  # killed during the answer
                    if chaos.web().deliver(event_id).status == 200:
                        deliveries[event_id] = times
                        break
                assert not chaos.pace.over.is_set(), event_id
                time.sleep(0.05)

    for future in [lab.pool.submit(deliver) for _ in range(8)]:
        future.result(8 * DEADLINE)
    return deliveries


def assert_nothing_lost(lab: Lab, database_url: str) -> None:
    """Fail unless each event is done, its callback ran, and no two runs of an object overlapped."""
    journal: dict[str, list[Entry]] = {}
    for entry in lab.journal():
        journal.setdefault(entry.event_id, []).append(entry)
    recorded = ask_inbox(
        database_url, lambda inbox: inbox.administration.select(EventFilter(), 2 * len(MANY))
    )
    events = {event.id: event for event in recorded}
    assert sorted(events) == sorted(MANY)
    objects: dict[str, list[Entry]] = {}
    for event_id, event in events.items():
        assert (event.state, event.outcome) == ("done", "handled"), event_id
        entries = journal[event_id]
        assert any(entry.what == "end" for entry in entries), event_id
        # No attempt followed the one whose success was recorded.
        assert max(entry.attempt for entry in entries) == event.attempt, event_id
        objects.setdefault(event_id.partition("@")[2], []).extend(entries)
    for entries in objects.values():
        assert_apart(entries)


def assert_apart(entries: list[Entry]) -> None:
    """Fail if a run began during another one, unless its process was killed."""
    ended = {(each.event_id, each.attempt) for each in entries if each.what == "end"}
    inside: set[tuple[str, int]] = set()
    for entry in sorted(entries, key=lambda each: each.at):
        run = (entry.event_id, entry.attempt)
        if entry.what == "start":
            assert not inside & ended, entries
            inside.add(run)
        else:
            inside.discard(run)
    attempts = [(each.event_id, each.attempt) for each in entries if each.what == "start"]
    assert len(attempts) == len(set(attempts)), entries


def run_chaos(
    lab: Lab, database_url: str, start_all: list[Callable[[], Service]], *more: Callable[[], None]
) -> None:
    """Deliver events while processes are killed, and check the outcome of each."""
    chaos = Chaos(lab, start_all)
    for service in chaos.processes:
        if "gunicorn" in command(service):
            wait_for(service.is_ready, DEADLINE)
    raging = [lab.pool.submit(chaos.kill_until), *(lab.pool.submit(act) for act in more)]

    def stop_when_broken(one: Future[None]) -> None:
        if one.exception():
            chaos.pace.over.set()

    for future in raging:
        future.add_done_callback(stop_when_broken)
    try:
        delivered = deliver_all(chaos, lab)
    finally:
        chaos.pace.over.set()
        for future in raging:
            future.result(DEADLINE)
    assert len(delivered) == len(MANY)
    assert chaos.pace.killed >= KILLS - 1

    wait_for(lambda: count_done(database_url) == len(MANY), 3 * DEADLINE)
    assert_nothing_lost(lab, database_url)


#: Short leases, because many processes are killed. Attempts and crashes are unlimited.
RESTLESS = {"LEASE_SECONDS": 2, "MAX_CRASHES": 100000, "RETRY_CAP_SECONDS": 1, "WEB_CONCURRENCY": 2}


def test_nothing_is_lost_on_sqlite(lab: Lab, sqlite_url: str) -> None:
    """2,000 deliveries to two services with workers inside and beside them, killed at random."""
    run_chaos(
        lab,
        sqlite_url,
        [
            *[lambda: start(lab, sqlite_url, **RESTLESS)] * 2,
            lambda: lab.start_worker(sqlite_url, **RESTLESS),
        ],
    )


def test_nothing_is_lost_on_postgresql(lab: Lab, own_postgresql: Postgresql) -> None:
    """Three replicas and two workers on one server, which is killed as well."""

    def kill_the_server() -> None:
        for _ in range(2):
            time.sleep(4)
            own_postgresql.kill()
            own_postgresql.start()

    url = own_postgresql.url
    run_chaos(
        lab,
        url,
        [
            *[lambda: start(lab, url, **RESTLESS, WORKER_THREADS=0)] * 3,
            *[lambda: lab.start_worker(url, **RESTLESS)] * 2,
        ],
        kill_the_server,
    )
