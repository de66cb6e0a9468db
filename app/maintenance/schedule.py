"""Runs the tasks of a serving process at their intervals, each in a thread of its own.

A task that only one process may run at a time has a leader: the process that holds the leadership
of its name in the inbox. When the leader ends, another process takes over.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import structlog

from app.errors import InboxUnavailable
from app.inbox.reconciliation import Reconciliation
from app.runtime import threads
from app.runtime.process_name import new_process_name

log = structlog.get_logger(__name__)

#: A leader that stops renewing its leadership is replaced after this many seconds at the earliest.
#: It is renewed at each round, so a term is never shorter than three rounds.
MIN_TERM_SECONDS = 30.0
ROUNDS_PER_TERM = 3

#: A task of leaders with a longer interval is done by the first process that asks when it is due.
#: Each process asks this often, in seconds. So the task runs even if no process lives for long.
POLL_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Task:
    """Work that is done every ``seconds``.

    ``by_leader``: by one process at a time. ``at_start``: for the first time at once.
    """

    name: str
    seconds: float
    run: Callable[[], object]
    by_leader: bool = False
    at_start: bool = False


class Maintenance:
    """The tasks of this process."""

    def __init__(
        self,
        tasks: Sequence[Task],
        reconciliation: Reconciliation,
        stopping: threading.Event,
    ) -> None:
        """Take the ``tasks``, the inbox's API for leaders, and the event that ends all tasks."""
        self._tasks = tasks
        self._reconciliation = reconciliation
        self._stopping = stopping
        self._rounds = itertools.count()

    def start(self) -> None:
        """Start the tasks in this process. A fork ends them in the child."""
        leader_id = new_process_name()
        for task in self._tasks:
            threads.start(f"maintenance-{task.name}", partial(self._loop, task, leader_id))

    def _loop(self, task: Task, leader_id: str) -> None:
        if task.at_start:
            self.run_once(task, leader_id)
        pause = min(task.seconds, POLL_SECONDS) if task.by_leader else task.seconds
        while not self._stopping.wait(pause):
            self.run_once(task, leader_id)

    def run_once(self, task: Task, leader_id: str) -> None:
        """Run the ``task``, unless another process leads it. No error leaves this method."""
        try:
            if not task.by_leader or self._leads(task, leader_id):
                task.run()
        except InboxUnavailable as error:
            log.warning("maintenance_failed", task=task.name, reason=error.reason)
        except Exception:  # of any kind: the next round must still come
            log.exception("maintenance_failed", task=task.name)

    def _leads(self, task: Task, leader_id: str) -> bool:
        if task.seconds > POLL_SECONDS:
            # A leader of one round: no process acquires it again before the task is due.
            return self._reconciliation.acquire_leadership(
                task.name, f"{leader_id}.{next(self._rounds)}", task.seconds
            )
        seconds = max(task.seconds * ROUNDS_PER_TERM, MIN_TERM_SECONDS)
        return self._reconciliation.acquire_leadership(task.name, leader_id, seconds)
