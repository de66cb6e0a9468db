"""Services of both modes and both databases that one test puts through the same fault.

Such a test mostly waits, for a lease or for the end of an outage. The sites wait together.

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

from tests.support.services import (
    DEADLINE,
    Answer,
    Entry,
    Lab,
    Service,
    ask_inbox,
    children_of,
    is_alive,
    make_tables,
    says_why,
    state,
)
from tests.support.waiting import wait_for

DONE = ("done", "handled", 1)
REDELIVERY_SECONDS = 0.25
"""Between two deliveries of an event. Twice as many take half of such a test's processor time."""


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
        """Start ``services`` in a ``mode``. Each site of a test needs its own name."""
        make_tables(url)
        changed = {"WEB_CONCURRENCY": 1, "WEB_THREADS": 16, "PROCESSING": mode, **settings}
        started = [lab.start(url, **changed) for _ in range(services)]
        return cls(lab, name, mode, url, started)

    def event(self, number: int = 0) -> str:
        """Return the id of an event of this site."""
        return f"evt_{number}_{self.name}"

    def hold(self, number: int = 0) -> int:
        """Start a callback that runs until ``release``. Returns its process."""
        event_id = self.event(number)
        self.gates[event_id] = self.lab.tell("hold", event_id)
        self.deliver(number)
        return self.starts(number).pid

    def deliver(self, number: int = 0) -> None:
        """Deliver an event to one of the services, without waiting for the answer."""
        service = self.services[number % len(self.services)]
        self.answers[self.event(number)] = self.lab.later(service.deliver, self.event(number))

    def starts(self, number: int = 0, attempt: int = 1) -> Entry:
        """Return the start of an attempt, once there is one."""
        event_id = self.event(number)
        wait_for(lambda: bool(self.lab.started(event_id, attempt)), DEADLINE)
        return self.lab.started(event_id, attempt)[0]

    def history(self, number: int = 0) -> list[str]:
        """Return the outcomes of the ended attempts of an event."""
        attempts = ask_inbox(
            self.url, lambda inbox: inbox.administration.attempts(self.event(number))
        )
        return [each.outcome for each in attempts]

    @property
    def log(self) -> str:
        """The output of all services."""
        return "".join(service.log for service in self.services)

    def says_why(self) -> bool:
        """Return whether one of its processes has logged why it ended itself."""
        return says_why(self.log)

    def release(self, *numbers: int) -> None:
        """Let the callbacks of these events return."""
        for number in numbers or range(len(self.gates)):
            self.gates[self.event(number)].unlink()

    def comes_to(
        self, expected: tuple[str, str | None, int], number: int = 0, seconds: float = DEADLINE
    ) -> None:
        """Wait until an event has this state, outcome and attempt, at most ``seconds``."""
        wait_for(lambda: state(self.url, self.event(number)) == expected, seconds)

    def are_settled(self) -> bool:
        """Return whether no event is pending or running."""
        return all(state(self.url, event_id)[0] in {"done", "dead"} for event_id in self.answers)

    def are_done(self) -> bool:
        """Return whether all held events succeeded in their first attempt."""
        return all(state(self.url, event_id) == DONE for event_id in self.gates)

    def accounts(self) -> dict[str, list[tuple[str, int]]]:
        """Return the journal of each held event."""
        return {event_id: self.lab.account(event_id) for event_id in self.gates}


@contextlib.contextmanager
def redelivered(sites: Iterable[Site], *, besides: Iterable[int] = ()) -> Iterator[None]:
    """Deliver all events repeatedly, to all services in turn, until the end of the block.

    Services with a process in ``besides`` get none: they would not answer.

    """
    over = threading.Event()

    def redeliver(event_id: str, services: list[Service]) -> None:
        while not over.is_set():
            for service in services:
                with contextlib.suppress(OSError):  # the process has just ended
                    service.deliver(event_id)
                over.wait(REDELIVERY_SECONDS)

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
    """Return the time at which a process ends, by the clock of the journal."""

    def wait() -> float:
        wait_for(lambda: not is_alive(pid), DEADLINE)
        return time.monotonic()

    return lab.pool.submit(wait)


def let_pass(seconds: float) -> None:
    """Wait as long as a wrong behaviour could take to show."""
    time.sleep(seconds)
