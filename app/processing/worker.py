"""Claims due events and has them run, in a fixed number of threads (queue mode).

The table of events is the queue, so no event can be lost between recording and claiming it. Idle
threads wait to be woken. One of them polls, for events that other processes recorded.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import structlog

from app.errors import DeliveryError, InboxUnavailable
from app.inbox import Claim
from app.inbox.claims import Claims
from app.processing.leases import Leases
from app.processing.outages import Outages
from app.processing.rescuer import mark_poison_dead
from app.processing.runner import Runner
from app.runtime import threads
from app.runtime.clocks import since_boot
from app.runtime.watchdog import Watchdog
from app.states import SUCCESSES, Outcome

log = structlog.get_logger(__name__)

#: Seconds between two polls of an idle process.
POLL_SECONDS = 0.5

#: Seconds between two tries to claim an orphan. The lease thread finds orphans.
RESCUE_SECONDS = 1.0

#: No second orphan is claimed for this many seconds. An event that ends its process does so soon,
#: and one that hangs must not hold up the others for ever.
ALONE_SECONDS = 30.0

#: A process that releases its events ends within this many seconds.
END_SECONDS = 1.0

#: Seconds between two looks at the claims that are being made during a release.
TICK_SECONDS = 0.01

#: Seconds until a released event can be claimed: longer, so that its callback no longer runs.
RELEASE_SECONDS = 2.0


class Worker:
    """The threads of this process that run events."""

    def __init__(  # noqa: PLR0913 - the services, each named
        self,
        claims: Claims,
        runner: Runner,
        *,
        leases: Leases,
        watchdog: Watchdog,
        outages: Outages,
        livemode: bool,
        stopping: threading.Event,
    ) -> None:
        """Take the services. Once ``stopping`` is set no event is claimed."""
        self._claims = claims
        self._runner = runner
        self._leases = leases
        self._watchdog = watchdog
        self._outages = outages
        self._livemode = livemode
        self._stopping = stopping
        self._woken = threading.Condition()
        self._wakes = 0
        self._has_poller = False
        self._claiming: set[int] = set()
        self._running: set[Claim] = set()
        self._rescued: set[Claim] = set()
        self._probes: deque[str] = deque()
        self._threads: list[threading.Thread] = []
        self._count = 0
        self._rescued_at = float("-inf")
        self._rescuing = threading.Lock()
        self._is_releasing = False
        self._outage_reported = False
        self.on_superseded: Callable[[str, int], object] = lambda _type, _number: None
        """Called with the type and the number of events that a claim superseded."""

    def start(self, count: int) -> None:
        """Start ``count`` threads in this process. A fork ends them in the child."""
        self._leases.start()
        self._count = count
        acts = [self._work] * count + ([self._listen] if count else [])
        for number, act in enumerate(acts):
            self._threads.append(threads.start(f"worker-{number}", act))

    def wake(self) -> None:
        """Wake an idle thread: an event has become due."""
        with self._woken:
            self._wakes += 1
            self._woken.notify()

    def rescue_now(self) -> None:
        """Claim an orphan as soon as a thread is idle: one has just been found."""
        self._rescued_at = float("-inf")
        self.wake()

    def probe(self, event_type: str) -> None:
        """Run one parked event of this paused type as soon as a thread is idle."""
        self._probes.append(event_type)
        self.wake()

    @property
    def unfinished(self) -> int:
        """The number of events that run now, and of threads that are claiming one."""
        return len(self._claiming) + len(self._running)

    def busy_and_idle(self) -> tuple[int, int]:
        """Return how many threads run an event, and how many wait for one.

        A stop ends those that wait.
        """
        busy = min(len(self._running), self._count)
        return busy, 0 if self._stopping.is_set() else self._count - busy

    def stop(self) -> None:
        """End idle threads now, and the others after their event."""
        self._stopping.set()
        with self._woken:
            self._woken.notify_all()

    def join(self) -> None:
        """Stop, and wait until all threads have ended."""
        self.stop()
        for thread in self._threads:
            thread.join()

    def release(self) -> None:
        """Release the events that still run. The process must end right after this.

        It ends before the first of these events can be claimed, even when the inbox is slow. An
        event that could not be released is an orphan once its lease expires. A claim that is being
        made is released too, if the inbox answers in time.
        """
        self._watchdog.end_within(END_SECONDS)
        self._is_releasing = True
        deadline = time.monotonic() + END_SECONDS
        released: set[Claim] = set()
        is_claiming = True
        while is_claiming:
            # Read first: a thread adds its claim to `_running` before it leaves `_claiming`.
            is_claiming = bool(self._claiming) and time.monotonic() < deadline
            for claim in set(self._running) - released:
                released.add(claim)
                self._release(claim)
            time.sleep(TICK_SECONDS if is_claiming else 0)

    def _release(self, claim: Claim) -> None:
        with suppress(InboxUnavailable):
            released = self._claims.release(claim, RELEASE_SECONDS)
            log.warning("event_released", **claim.log_fields(), released=released)

    def _work(self) -> None:
        while not self._stopping.is_set():
            wakes = self._wakes
            claim = self._take()
            if claim is None:
                self._wait(wakes)
            elif self._is_releasing:
                return  # `release` gives it back
            else:
                self.wake()  # more events may be due, and another thread has to poll
                self._run(claim)

    def _wait(self, wakes: int) -> None:
        """Wait to be woken. Return at once if `_wakes` has changed."""
        with self._woken:
            if self._wakes != wakes or self._stopping.is_set():
                return
            if self._has_poller:
                self._woken.wait()
                return
            self._has_poller = True
            try:
                self._woken.wait(POLL_SECONDS)
            finally:
                self._has_poller = False

    def _take(self) -> Claim | None:
        """Claim an event.

        ``unfinished`` includes the claim from its start, so that a stop waits for it.
        """
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
        self._watchdog.check()
        try:
            claim = (
                self._rescue() or self._probe() or self._claims.claim_due(livemode=self._livemode)
            )
        except InboxUnavailable as error:
            if not self._outage_reported:  # once for each outage, not at every poll
                self._outage_reported = True
                self._outages.report(error)
            return None
        except Exception:  # of any kind: without this thread fewer events would run at once
            log.exception("claim_failed")
            return None
        self._outage_reported = False
        if claim is not None and claim.superseded:
            self.on_superseded(claim.type, claim.superseded)
        return claim

    def _probe(self) -> Claim | None:
        """Claim an event of a paused type whose circuit breaker is to be probed."""
        try:
            event_type = self._probes.popleft()
        except IndexError:
            return None
        claim = self._claims.claim_parked(event_type, livemode=self._livemode)
        if claim is not None:
            log.info("type_probed", **claim.log_fields())
        return claim

    def _rescue(self) -> Claim | None:
        """Once a second mark poison events dead, and claim an orphan.

        One thread at a time: an orphan that ends its process again must not orphan others with it.
        The other threads do not wait for that.
        """
        if not self._rescuing.acquire(blocking=False):
            return None
        try:
            if self._is_orphan_alone() or time.monotonic() < self._rescued_at + RESCUE_SECONDS:
                return None
            self._rescued_at = time.monotonic()
            mark_poison_dead(self._claims)
            claim = self._claims.claim_orphan(livemode=self._livemode)
            if claim is not None:
                self._rescued.add(claim)
                log.warning("event_rescued", **claim.log_fields())
            return claim
        finally:
            self._rescuing.release()

    def _is_orphan_alone(self) -> bool:
        """Return whether an orphan runs that must be the only one."""
        begin = since_boot() - ALONE_SECONDS
        return any(each.asked_at > begin for each in list(self._rescued))

    def _run(self, claim: Claim) -> None:
        started = time.perf_counter()
        try:
            outcome = self._runner.run(claim)
        except (DeliveryError, InboxUnavailable) as error:
            outcome = error.outcome
        except BaseException:  # of any kind: without this thread fewer events would run at once
            log.exception("run_failed", **claim.log_fields())
            outcome = Outcome.FAILED
        finally:
            self._running.discard(claim)
            if claim in self._rescued:
                self._rescued.discard(claim)
                self._rescued_at = float("-inf")  # there may be more orphans
        duration = round((time.perf_counter() - started) * 1000, 2)
        write = log.info if outcome in SUCCESSES else log.warning
        more = {"superseded": claim.superseded} if claim.superseded else {}
        plain = {"outcome": outcome.value, "duration_ms": duration}  # as in the line of a delivery
        write("attempt", **claim.log_fields(), **plain, **more)

    def _listen(self) -> None:
        while not self._stopping.is_set():
            try:
                self._claims.listen(self.wake, self._stopping)
            except InboxUnavailable:
                self._stopping.wait(POLL_SECONDS)
            else:
                return
