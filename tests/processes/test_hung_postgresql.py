"""A PostgreSQL whose processes are frozen (SIGSTOP), with real processes on our side.

The kernel still confirms what is sent. So no connection is lost or refused, and the server does
not count its own limits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from app.inbox import Inbox
from app.inbox.filters import EventFilter
from tests.support.services import (
    DEADLINE,
    DUPLICATE,
    EVENT_TYPE,
    HANDLER,
    NO_INBOX,
    ONCE,
    Answer,
    Lab,
    Postgresql,
    Service,
    notification,
    state,
)
from tests.support.waiting import wait_for

EVENT = "evt_1"
DONE = ("done", "handled", 1)
CROWD = 40
"""Deliveries at once: more than threads."""
SETTINGS: dict[str, Any] = {"WEB_CONCURRENCY": 1, "WEB_THREADS": 8, "LEASE_SECONDS": 2}
KINDS = ["inline", "queue", "worker"]
"""Callbacks run in requests, in worker threads of the same process, or in a worker process."""


@pytest.fixture
def lab(tmp_path: Path, make_handlers: Callable[..., str]) -> Iterator[Lab]:
    """Services whose callbacks the test controls. They end with the test."""
    name = make_handlers(**{EVENT_TYPE.replace(".", "_"): HANDLER})
    lab = Lab(tmp_path / "packages" / name)
    try:
        yield lab
    finally:
        lab.close()


def start(lab: Lab, database_url: str, kind: str, *options: str) -> tuple[Service, Service]:
    """Start and return the service, and the process that runs callbacks: often the same."""
    settings = dict(SETTINGS)
    if kind != "inline":
        settings |= {"PROCESSING": "queue", "WORKER_THREADS": 0 if kind == "worker" else 4}
    service = lab.start(database_url, *options, **settings)
    wait_for(service.is_ready, DEADLINE)
    if kind != "worker":
        return service, service
    worker = lab.start_worker(database_url, "--threads", "4", "--grace", "2", LEASE_SECONDS=2)
    wait_for(lambda: "worker_started" in worker.log, DEADLINE)
    return service, worker


def deliver_crowd(lab: Lab, service: Service, word: str) -> list[Answer]:
    """Deliver ``CROWD`` events at once, and return all answers."""
    notification(EVENT)  # the first one reads the SDK's sources: once, not in each thread
    coming = [lab.later(service.deliver, f"evt_{word}_{number}") for number in range(CROWD)]
    return [each.result(DEADLINE) for each in coming]


def hold(lab: Lab, service: Service) -> tuple[Future[Answer], Path]:
    """Deliver an event whose callback ends when its file is removed."""
    file = lab.tell("hold", EVENT)
    answer = lab.later(service.deliver, EVENT)
    wait_for(lambda: bool(lab.started(EVENT, 1)), DEADLINE)
    return answer, file


def is_answered_200(service: Service, event_id: str) -> bool:
    """Deliver the event, and return whether the answer is 200."""
    return service.deliver(event_id).status == 200


def wait_until_done(database_url: str, number: int) -> None:
    """Return when this ``number`` of events is done, and check that there are no others."""
    with contextlib.closing(Inbox(database_url, lease_seconds=2)) as inbox:
        wait_for(
            lambda: inbox.administration.count(EventFilter(state="done")).number == number, DEADLINE
        )
        assert inbox.administration.count(EventFilter()).number == number


@pytest.mark.parametrize("kind", KINDS)
def test_crowd_is_answered_while_the_server_is_frozen(
    lab: Lab, own_postgresql: Postgresql, kind: str
) -> None:
    """Each delivery is answered 503 with Retry-After. Afterwards the service recovers by itself."""
    service, _ = start(lab, own_postgresql.url, kind)
    assert {each.status for each in deliver_crowd(lab, service, "before")} == {200}

    with own_postgresql.frozen():
        answers = deliver_crowd(lab, service, "during")
        assert {(each.brief, each.retry_after) for each in answers} == {(NO_INBOX, 5)}
        assert service.ask("GET", "/healthz").brief == (200, "ok")
        assert service.readiness().status == 503
        again = deliver_crowd(lab, service, "during")
        assert {(each.brief, each.retry_after) for each in again} == {(NO_INBOX, 5)}
    wait_for(service.is_ready, DEADLINE)

    assert {each.status for each in deliver_crowd(lab, service, "after")} == {200}
    for number in range(CROWD):
        event_id = f"evt_during_{number}"
        # The server may run the claim when it wakes. No process knows of it until its lease ends.
        wait_for(partial(is_answered_200, service, event_id), DEADLINE)
    wait_until_done(own_postgresql.url, 3 * CROWD)


@pytest.mark.parametrize("kind", KINDS)
def test_result_of_a_callback_during_the_freeze_is_recorded_afterwards(
    lab: Lab, own_postgresql: Postgresql, kind: str
) -> None:
    """The callback runs once, and its success is recorded as soon as the server answers."""
    service, runs = start(lab, own_postgresql.url, kind)
    answer, file = hold(lab, service)

    with own_postgresql.frozen():
        wait_for(lambda: "lease_not_renewed" in runs.log, DEADLINE)
        file.unlink()
        wait_for(lambda: len(lab.journal(EVENT)) == 2, DEADLINE)
        if kind == "inline":
            assert answer.result(DEADLINE).brief == NO_INBOX

    wait_for(lambda: state(own_postgresql.url, EVENT) == DONE, DEADLINE)
    wait_for(service.is_ready, DEADLINE)
    assert service.deliver(EVENT).brief == DUPLICATE
    assert lab.account(EVENT) == ONCE


@pytest.mark.parametrize("kind", KINDS)
def test_stop_while_the_server_is_frozen(lab: Lab, own_postgresql: Postgresql, kind: str) -> None:
    """SIGTERM ends all processes with status 0, whether a callback runs or not."""
    service, runs = start(lab, own_postgresql.url, kind, "--graceful-timeout", "4")
    hold(lab, service)
    idle, other = start(lab, own_postgresql.url, kind)

    with own_postgresql.frozen():
        deliver_crowd(lab, idle, "during")
        for each in {service, runs, idle, other}:
            each.terminate()
        for each in {service, runs, idle, other}:
            assert each.wait() == 0, each.log
