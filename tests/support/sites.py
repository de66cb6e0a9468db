"""Services of both modes and both databases that go through the same trouble in one test.

Most of such a test is waiting: for a lease, or for the end of an outage. So they wait together.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.inbox import Inbox
from tests.support.services import (
    DEADLINE,
    Answer,
    Entry,
    Lab,
    Service,
    children_of,
    is_alive,
    says_why,
    state,
)
from tests.support.waiting import wait_for

DONE = ("done", "handled", 1)


@dataclass
class Site:
    """Services that share one inbox, and the events that are delivered to them."""

    lab: Lab
    name: str
    mode: str
    url: str
    services: list[Service]
    gates: dict[str, Path] = field(default_factory=dict)
    answers: dict[str, Future[Answer]] = field(default_factory=dict)

    @classmethod
    def start(
        cls, lab: Lab, name: str, mode: str, url: str, *, services: int = 2, **settings: Any
    ) -> Site:
        """Start so many ``services`` in a ``mode``. All names of a test's sites have to differ."""
        changed = {"WEB_CONCURRENCY": 1, "WEB_THREADS": 16, "PROCESSING": mode, **settings}
        started = [lab.start(url, **changed) for _ in range(services)]
        return cls(lab, name, mode, url, started)

    def event(self, number: int = 0) -> str:
        """Return the id of an event of this site's."""
        return f"evt_{number}_{self.name}"

    def hold(self, number: int = 0) -> int:
        """Have a callback begin that ends when it is released. Returns its process."""
        event_id = self.event(number)
        self.gates[event_id] = self.lab.tell("hold", event_id)
        self.deliver(number)
        return self.starts(number).pid

    def deliver(self, number: int = 0) -> None:
        """Deliver an event to one of the services, without waiting for the answer."""
        service = self.services[number % len(self.services)]
        self.answers[self.event(number)] = self.lab.later(service.deliver, self.event(number))

    def starts(self, number: int = 0, attempt: int = 1) -> Entry:
        """Return the beginning of an attempt as soon as it is there."""
        event_id = self.event(number)
        wait_for(lambda: bool(self.lab.started(event_id, attempt)), DEADLINE)
        return self.lab.started(event_id, attempt)[0]

    def history(self, number: int = 0) -> list[str]:
        """Return the outcomes of the attempts of an event that have ended."""
        with contextlib.closing(Inbox(self.url, lease_seconds=1)) as inbox:
            return [each.outcome for each in inbox.administration.attempts(self.event(number))]

    @property
    def log(self) -> str:
        """What all of its services have written."""
        return "".join(service.log for service in self.services)

    def says_why(self) -> bool:
        """Whether one of its processes has said why it ended itself."""
        return says_why(self.log)

    def release(self, *numbers: int) -> None:
        """Let the callbacks of these events end."""
        for number in numbers or range(len(self.gates)):
            self.gates[self.event(number)].unlink()

    def comes_to(
        self, expected: tuple[str, str | None, int], number: int = 0, seconds: float = DEADLINE
    ) -> None:
        """Return when an event has come to that state, outcome and attempt, within ``seconds``."""
        wait_for(lambda: state(self.url, self.event(number)) == expected, seconds)

    def are_settled(self) -> bool:
        """Whether none of the events is pending or running."""
        return all(state(self.url, event_id)[0] in {"done", "dead"} for event_id in self.answers)

    def are_done(self) -> bool:
        """Whether all events that were held have come to their success, at the first attempt."""
        return all(state(self.url, event_id) == DONE for event_id in self.gates)

    def accounts(self) -> dict[str, list[tuple[str, int]]]:
        """Return what the callbacks did of each event that was held."""
        return {event_id: self.lab.account(event_id) for event_id in self.gates}


@contextlib.contextmanager
def redelivered(sites: Iterable[Site], *, besides: Iterable[int] = ()) -> Iterator[None]:
    """Deliver all events again and again, to all services in turn, until the block is left.

    Processes of ``besides`` get none: they would not answer.
    """
    over = threading.Event()

    def redeliver(event_id: str, services: list[Service]) -> None:
        while not over.is_set():
            for service in services:
                with contextlib.suppress(OSError):  # its process has just ended
                    service.deliver(event_id)
                over.wait(0.1)

    coming: list[Future[None]] = []
    for site in sites:
        services = [each for each in site.services if not set(besides) & {*processes_of(each)}]
        coming += [site.lab.pool.submit(redeliver, each, services) for each in site.answers]
    try:
        yield
    finally:
        over.set()
        for each in coming:
            each.result(DEADLINE)


def processes_of(service: Service) -> list[int]:
    """Return the processes of a service that answer requests and run callbacks."""
    return children_of(service.process.pid)


def watch_end(lab: Lab, pid: int) -> Future[float]:
    """Return when a process will have ended, by the clock of the journal."""

    def wait() -> float:
        wait_for(lambda: not is_alive(pid), DEADLINE)
        return time.monotonic()

    return lab.pool.submit(wait)


def let_pass(seconds: float) -> None:
    """Wait for as long as something wrong could happen."""
    time.sleep(seconds)
