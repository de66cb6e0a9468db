"""The circuit breaker of event types: it pauses a type whose every event fails.

Such events would use up their attempts and the threads of the workers. Attempts are counted in
memory and added to the inbox every second, so an attempt writes nothing more. A type is paused when
its failures in a row reach the limit, and no process reports a success for some seconds more. Then
one event is tried at intervals: a success ends the pause. A twin has called no callback, so it is
neither a success nor a failure.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

import structlog

from app.inbox.type_breakers import FailingType, TypeBreakers
from app.maintenance.schedule import Task
from app.states import NOT_RUN, SUCCESSES, Outcome

log = structlog.get_logger(__name__)

#: Seconds between two rounds of a process.
ROUND_SECONDS = 1.0

#: Seconds for which a type stays at its limit before it is paused. Each process reports its
#: successes within a round.
CONFIRM_SECONDS = 3 * ROUND_SECONDS

#: Seconds between two probes of a paused type.
PROBE_SECONDS = 60.0

#: The outcomes that count as successes of a callback.
RETURNED = SUCCESSES - NOT_RUN

#: The outcomes that count as failures. ``gave_up`` is a decision of the callback, and an unreadable
#: event reaches none.
FAILURES = frozenset({Outcome.FAILED, Outcome.EXHAUSTED})


#: Called after an attempt with its event type, its outcome and its seconds.
OnAttempt = Callable[[str, Outcome, float], object]


class TypeBreaker:
    """The part of the circuit breakers in one process."""

    def __init__(self, breakers: TypeBreakers, limit: int) -> None:
        """Take the inbox's part, and the number of failures in a row that open a breaker."""
        self._breakers = breakers
        self._limit = limit
        self._lock = threading.Lock()
        self._failed: Counter[str] = Counter()
        self._succeeded: set[str] = set()
        self._succeeded_before: set[str] = set()
        self._not_run: set[str] = set()
        self.busy_and_idle: Callable[[], tuple[int, int]] = lambda: (0, 0)
        """Returns the numbers of threads that run an event, and that wait for one."""
        self.probe: Callable[[str], object] = lambda _type: None
        """Tries one event of a type."""

    def after(self, on_attempt: OnAttempt) -> OnAttempt:
        """Return a function that calls ``on_attempt`` and counts the attempt."""

        def count(event_type: str, outcome: Outcome, seconds: float) -> None:
            on_attempt(event_type, outcome, seconds)
            self._count(event_type, outcome)

        return count

    def _count(self, event_type: str, outcome: Outcome) -> None:
        with self._lock:
            if outcome in RETURNED:
                self._succeeded.add(event_type)
                del self._failed[event_type]
            elif outcome in NOT_RUN:
                self._not_run.add(event_type)
            elif outcome in FAILURES:
                self._failed[event_type] += 1

    def tasks(self) -> list[Task]:
        """Return the regular work of this process. With a limit of 0 there is none."""
        return [Task("type_breakers", ROUND_SECONDS, self.run)] if self._limit else []

    def run(self) -> None:
        """Report the attempts since the last round, then open, probe and close breakers.

        Raises ``InboxUnavailable``. It may then forget an attempt.
        """
        failing = {each.type: each for each in self._breakers.failing()}
        with self._lock:
            # Those of the round before too: another process reports failures from before them now.
            succeeded = self._succeeded | self._succeeded_before
            self._succeeded_before, self._succeeded = self._succeeded, set()
            not_run, self._not_run = self._not_run, set()
        for event_type in succeeded & failing.keys():
            self._close(failing.pop(event_type))
        for event_type in list(self._failed):
            with self._lock:
                number = self._failed.pop(event_type, 0)
            self._breakers.add(event_type, number, self._limit)
        for each in failing.values():
            # A probe that ended as twin has shown nothing. The next event is tried at once.
            self._act(each, 0.0 if each.type in not_run else PROBE_SECONDS)

    def _act(self, failing: FailingType, probe_seconds: float) -> None:
        """Open the breaker of a type, or probe it."""
        if failing.is_open:
            if any(self.busy_and_idle()) and self._breakers.take_probe(failing.type, probe_seconds):
                self.probe(failing.type)
        elif failing.is_full and failing.paused_by is None:
            why = f"{failing.failures} failures in a row"
            if self._breakers.open(failing.type, why, CONFIRM_SECONDS):
                log.error("type_paused", event_type=failing.type, failures=failing.failures)

    def _close(self, failing: FailingType) -> None:
        if self._breakers.close(failing.type, "an event succeeded"):
            log.warning("type_resumed", event_type=failing.type)
