"""Takes due events from the inbox and has them run, in a fixed number of threads (queue mode).

The row is the queue: nothing stands between recording an event and claiming it that could lose it.
A thread that finds nothing waits. One of the waiting threads looks again by itself every now and
then, for what other processes recorded; the others wait until somebody calls.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress

import structlog

from app.errors import DeliveryError, InboxUnavailable, StartError
from app.inbox import Claim, Inbox
from app.processing.leases import Leases
from app.processing.runner import Runner
from app.runtime import threads
from app.runtime.clocks import since_boot
from app.states import Outcome

log = structlog.get_logger(__name__)

#: Seconds between two looks of an idle process for what others have recorded.
POLL_SECONDS = 0.5

#: Seconds between two looks for orphans, which the lease thread finds.
RESCUE_SECONDS = 1.0

#: Seconds for which no other orphan runs beside one. An event that ends its process does so soon,
#: and one that hangs must not hold up the others for ever.
ALONE_SECONDS = 30.0

#: Seconds until a process that releases its events has ended, and until they can be claimed again.
#: The second time is longer, so that no callback still runs.
END_SECONDS = 1.0
RELEASE_SECONDS = 2.0


class Worker:
    """The threads of this process that run events."""

    def __init__(
        self,
        inbox: Inbox,
        runner: Runner,
        leases: Leases,
        *,
        livemode: bool,
        stopping: threading.Event,
    ) -> None:
        """Take the parts. Once ``stopping`` is set nothing more is claimed."""
        self._inbox = inbox
        self._runner = runner
        self._leases = leases
        self._livemode = livemode
        self._stopping = stopping
        self._called = threading.Condition()
        self._calls = 0
        self._has_lookout = False
        self._claiming: set[int] = set()
        self._running: set[Claim] = set()
        self._suspects: set[Claim] = set()
        self._threads: list[threading.Thread] = []
        self._rescued_at = float("-inf")
        self._rescuing = threading.Lock()
        self._away = False

    def start(self, count: int) -> None:
        """Start ``count`` of them, in this process: threads do not survive a fork."""
        self._leases.rescuer.on_orphan = self._look_at_once
        self._leases.start()
        acts = [self._work] * count + ([self._listen] if count else [])
        for number, act in enumerate(acts):
            self._threads.append(threads.start(f"worker-{number}", act))

    def wake(self) -> None:
        """Say that an event has become due: a thread that waits takes it."""
        with self._called:
            self._calls += 1
            self._called.notify()

    def _look_at_once(self) -> None:
        self._rescued_at = float("-inf")
        self.wake()

    @property
    def running(self) -> int:
        """How many events run now."""
        return len(self._running)

    @property
    def unfinished(self) -> int:
        """How many events run now or may be about to: a claim is being asked for."""
        return len(self._claiming) + len(self._running)

    def stop(self) -> None:
        """Have all threads end that wait; those that run an event end after it."""
        self._stopping.set()
        with self._called:
            self._called.notify_all()

    def join(self) -> None:
        """Stop, and wait until all threads have ended."""
        self.stop()
        for thread in self._threads:
            thread.join()

    def release(self) -> None:
        """Release the events that still run, right before the process ends with their callbacks.

        The process must end right after this. Even when the inbox is slow, it ends before the first
        of these events can be claimed. An event that was not released waits for its lease to end.
        """
        self._leases.watchdog.end_within(END_SECONDS)
        for claim in list(self._running):
            with suppress(InboxUnavailable):  # its lease ends by itself
                released = self._inbox.claims.release(claim, RELEASE_SECONDS)
                log.warning("event_released", **_names(claim), released=released)

    def _work(self) -> None:
        while not self._stopping.is_set():
            calls = self._calls
            claim = self._take()
            if claim is None:
                self._wait(calls)
            else:
                self.wake()  # there may be more, and somebody else has to look out
                self._run(claim)

    def _wait(self, calls: int) -> None:
        """Wait for a call, unless one has come since there were ``calls`` of them."""
        with self._called:
            if self._calls != calls or self._stopping.is_set():
                return
            if self._has_lookout:
                self._called.wait()
                return
            self._has_lookout = True
            try:
                self._called.wait(POLL_SECONDS)
            finally:
                self._has_lookout = False

    def _take(self) -> Claim | None:
        """Claim an event, and count as unfinished from before that: a stop waits for both."""
        thread = threading.get_ident()
        self._claiming.add(thread)
        try:
            claim = None if self._stopping.is_set() else self._claim()
            if claim is not None:
                self._running.add(claim)
            return claim
        finally:
            self._claiming.discard(thread)

    def _claim(self) -> Claim | None:
        self._leases.watchdog.check()
        try:
            claim = self._rescue() or self._inbox.claims.claim_due(livemode=self._livemode)
        except (InboxUnavailable, StartError) as error:
            if not self._away:  # once for each time that it is away, not at every look
                self._away = True
                self._leases.say_away(error)
            return None
        except Exception:  # whatever it is, ending this thread would end its share of the work
            log.exception("claim_failed")
            return None
        self._away = False
        return claim

    def _rescue(self) -> Claim | None:
        """Once a second give up on events that crash their processes, and claim an orphan."""
        with self._rescuing:
            # One at a time: an orphan that ends its process again must not orphan others with it.
            if self._is_alone() or time.monotonic() < self._rescued_at + RESCUE_SECONDS:
                return None
            self._rescued_at = time.monotonic()
            while buried := self._inbox.claims.mark_poison_dead():
                log.error("event_crashed", **buried)
            claim = self._inbox.claims.claim_orphan(livemode=self._livemode)
            if claim is not None:
                self._suspects.add(claim)
                log.warning("event_rescued", **_names(claim))
            return claim

    def _is_alone(self) -> bool:
        """Whether an orphan runs that has to be the only one."""
        begun = since_boot() - ALONE_SECONDS
        return any(each.asked_at > begun for each in list(self._suspects))

    def _run(self, claim: Claim) -> None:
        started = time.perf_counter()
        try:
            outcome = self._runner.run(claim)
        except (DeliveryError, InboxUnavailable) as error:
            outcome = error.outcome
        except BaseException:  # whatever it is, ending this thread would end its share of the work
            log.exception("run_failed", **_names(claim))
            outcome = Outcome.FAILED
        finally:
            self._running.discard(claim)
            if claim in self._suspects:
                self._suspects.discard(claim)
                self._rescued_at = float("-inf")  # there may be more
        duration = round((time.perf_counter() - started) * 1000, 2)
        write = log.info if outcome is Outcome.HANDLED else log.warning
        write("attempt", **_names(claim), outcome=outcome, duration_ms=duration)

    def _listen(self) -> None:
        while not self._stopping.is_set():
            try:
                self._inbox.claims.listen(self.wake, self._stopping)
            except (InboxUnavailable, StartError):
                self._stopping.wait(POLL_SECONDS)
            else:
                return


def _names(claim: Claim) -> dict[str, object]:
    names = {"event_id": claim.event_id, "event_type": claim.type, "attempt": claim.attempt}
    return names if claim.context is None else {**names, "context": claim.context}
