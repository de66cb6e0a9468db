"""Finds orphans: events whose process is dead, or no longer renews their leases.

Each serving process polls for leases that expired by the database's clock. Its own monotonic clock
counts how long they stay unrenewed. So neither a clock step nor an outage of the inbox ends a
claim: a live process renews its lease within the grace (``app/inbox/sql/rescue.py``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import structlog

from app.errors import InboxUnavailable
from app.inbox import Suspect
from app.inbox.claims import Claims
from app.inbox.rescue import Rescue

log = structlog.get_logger(__name__)

#: Steps back of fewer seconds are ignored.
STEP_SECONDS = 1.0

#: The id of an event, and the end of its lease.
_Key = tuple[str, float]


@dataclass(frozen=True, slots=True)
class _Seen:
    """The seconds recorded for a suspect, and the monotonic time of that."""

    seconds: float
    at: float


class Rescuer:
    """Watches expired leases and the database's clock for this process."""

    def __init__(self, rescue: Rescue, tick_seconds: float) -> None:
        """Take the inbox's API for rescue, and the seconds between two polls."""
        self._rescue = rescue
        #: The maximum that one poll adds, in seconds. After a longer time this process was stopped,
        #: and other processes may have been stopped with it.
        self._max_seconds = 2 * tick_seconds
        self.on_orphan: Callable[[], object] = lambda: None
        """Called when an event became an orphan."""
        self._seen: dict[_Key, _Seen] = {}
        self._failed: dict[_Key, float] = {}
        self._offset: float | None = None

    def poll(self) -> list[Suspect]:
        """Return the suspects.

        Counting starts again when this raises, such as ``InboxUnavailable``: in an outage no
        process can renew a lease.
        """
        try:
            return self._rescue.suspects()
        except BaseException:
            self._seen = {}
            raise

    def measure(self, suspects: Iterable[Suspect], polled_at: float) -> int:
        """Record how long each of the ``suspects`` stayed unrenewed since the last poll.

        ``polled_at`` is the monotonic time right before the poll. Returns the number of undecided
        suspects. Raises ``InboxUnavailable`` when one of them cannot be recorded, for example
        because its row is locked. The others are recorded first, as far as there is time.
        """
        seen, self._seen = self._seen, {}
        failed, self._failed = self._failed, {}
        undecided, failure = 0, None
        # Those that failed before come last: a failure takes time from the others.
        for each in sorted(suspects, key=lambda each: failed.get(_key(each), 0.0)):
            key = _key(each)
            before = seen.get(key)
            if key in failed:
                self._failed[key] = failed[key]
            if time.monotonic() > polled_at + self._max_seconds:
                undecided += 1
                if before is not None and failure is None:  # a failure may be an outage
                    self._seen[key] = before
                continue
            try:
                undecided += not self._is_decided(each, before, polled_at)
            except InboxUnavailable as error:
                self._failed[key] = time.monotonic()
                failure = error
        if failure is not None:
            raise failure
        return undecided

    def _is_decided(self, suspect: Suspect, before: _Seen | None, polled_at: float) -> bool:
        seconds = suspect.seconds
        if before is not None and before.seconds == seconds:  # else another process has counted
            seconds += min(polled_at - before.at, self._max_seconds)
            is_orphan = self._rescue.add_unrenewed(suspect, seconds)
            if is_orphan is None:
                return False
            if is_orphan:
                self._report(suspect, seconds)
                return True
        self._seen[_key(suspect)] = _Seen(seconds, time.monotonic())
        return False

    def _report(self, suspect: Suspect, seconds: float) -> None:
        log.warning(
            "event_orphaned",
            event_id=suspect.event_id,
            attempt=suspect.attempt,
            claimed_by=suspect.token,
            unrenewed_seconds=round(seconds, 1),
        )
        self.on_orphan()

    def watch_clock(self) -> None:
        """Repair due times when the database's clock stepped back, and once after the start.

        Raises ``InboxUnavailable``.
        """
        asked_at = time.monotonic()
        clock = self._rescue.clock()
        offset = clock - time.monotonic()
        # Measured from before the query, so that a slow answer does not look like a step back.
        back = 0.0 if self._offset is None else self._offset - (clock - asked_at)
        if self._offset is None or back > STEP_SECONDS:
            self._rescue.repair_times(stepped=back > STEP_SECONDS)
            self._offset = offset
        if back > STEP_SECONDS:
            log.warning("clock_stepped_back", seconds=round(back, 1))
        self._offset = max(self._offset, offset)


def wait_for_orphans(rescue: Rescue, tick_seconds: float, on_wait: Callable[[int], object]) -> None:
    """Wait until each expired lease was renewed, or its event is an orphan.

    For a command, which may be the only process. Takes up to the grace of the leases. Polls every
    ``tick_seconds``. Calls ``on_wait`` with the number of leases before it waits. Raises
    ``InboxUnavailable``.
    """
    rescuer = Rescuer(rescue, tick_seconds)
    polled_at = time.monotonic()
    is_waiting = False
    while undecided := rescuer.measure(rescuer.poll(), polled_at):
        if not is_waiting:
            on_wait(undecided)
            is_waiting = True
        time.sleep(tick_seconds)
        polled_at = time.monotonic()


def mark_poison_dead(claims: Claims) -> None:
    """Mark the orphans dead that ended too many processes. Raises ``InboxUnavailable``."""
    while crashed := claims.mark_poison_dead():
        log.error("event_crashed", **crashed)


def _key(suspect: Suspect) -> _Key:
    return suspect.event_id, suspect.lease_until
