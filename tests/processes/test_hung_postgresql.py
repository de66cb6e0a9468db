"""A PostgreSQL whose processes stand still, with real processes on our side.

Its host goes on confirming what is sent, so that nothing fails by itself: no connection is lost
or refused, and no limit of the server's own is counted.
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
from app.inbox.sql.filters import EventFilter
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
"""Deliveries at once: more than there are threads."""
SETTINGS: dict[str, Any] = {"WEB_CONCURRENCY": 1, "WEB_THREADS": 8, "LEASE_SECONDS": 2}
KINDS = ["inline", "queue", "worker"]
"""Callbacks run in the requests, in threads beside them, or in a process of their own."""


@pytest.fixture
def lab(tmp_path: Path, make_handlers: Callable[..., str]) -> Iterator[Lab]:
    """Services with callbacks that do as they are told, ended with the test."""
    name = make_handlers(**{EVENT_TYPE.replace(".", "_"): HANDLER})
    lab = Lab(tmp_path / "packages" / name)
    try:
        yield lab
    finally:
        lab.close()


def start(lab: Lab, database_url: str, kind: str, *options: str) -> tuple[Service, Service]:
    """Start what answers requests, and what runs callbacks: the same but for a ``worker``."""
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
    """Deliver many events at once, and return all answers."""
    notification(EVENT)  # the first one reads the SDK's sources: once, and not in each thread
    coming = [lab.later(service.deliver, f"evt_{word}_{number}") for number in range(CROWD)]
    return [each.result(DEADLINE) for each in coming]


def hold(lab: Lab, service: Service) -> tuple[Future[Answer], Path]:
    """Deliver an event whose callback does not end before its file is gone."""
    file = lab.tell("hold", EVENT)
    answer = lab.later(service.deliver, EVENT)
    wait_for(lambda: bool(lab.started(EVENT, 1)), DEADLINE)
    return answer, file


def is_taken(service: Service, event_id: str) -> bool:
    """Deliver the event. Whether it is answered 200."""
    return service.deliver(event_id).status == 200


def are_done(database_url: str, number: int) -> None:
    """Return when so many events have come to their success, and no other is there."""
    with contextlib.closing(Inbox(database_url, lease_seconds=2)) as inbox:
        wait_for(lambda: inbox.administration.count(EventFilter(state="done")) == number, DEADLINE)
        assert inbox.administration.count(EventFilter()) == number


@pytest.mark.parametrize("kind", KINDS)
def test_crowd_is_answered_while_the_server_is_frozen(
    lab: Lab, own_postgresql: Postgresql, kind: str
) -> None:
    """None of them hangs: 503 and when to come back. Afterwards all is well by itself."""
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
        # The server may have claimed it when it came round, for nobody: until a lease has ended.
        wait_for(partial(is_taken, service, event_id), DEADLINE)
    are_done(own_postgresql.url, 3 * CROWD)


@pytest.mark.parametrize("kind", KINDS)
def test_callback_that_ran_meanwhile_is_settled_afterwards(
    lab: Lab, own_postgresql: Postgresql, kind: str
) -> None:
    """It ran once, and its success is recorded as soon as there is somebody to record it."""
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
    """SIGTERM ends all processes with status 0, idle or not."""
    service, runs = start(lab, own_postgresql.url, kind, "--graceful-timeout", "4")
    hold(lab, service)
    idle, other = start(lab, own_postgresql.url, kind)

    with own_postgresql.frozen():
        deliver_crowd(lab, idle, "during")
        for each in {service, runs, idle, other}:
            each.terminate()
        for each in {service, runs, idle, other}:
            assert each.wait() == 0
