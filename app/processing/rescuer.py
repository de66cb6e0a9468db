"""Finds orphans: events whose process is dead, or no longer renews their leases.

Each serving process looks for leases that ran out by the database's clock. It counts by its own
monotonic clock how long they stay unrenewed. So neither a clock step nor an outage of the inbox
ends a claim: a live process renews its lease within the grace (``app/inbox/sql/rescue.py``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import structlog

from app.errors import InboxUnavailable
from app.inbox import Inbox, Suspect

log = structlog.get_logger(__name__)

#: Seconds by which a clock has to step back to count: less does no harm.
STEP_SECONDS = 1.0


#: The id of an event, and the end of its lease.
_Key = tuple[str, float]


@dataclass(frozen=True, slots=True)
class _Seen:
    """The seconds recorded for a suspected lease, and when, by the monotonic clock."""

    seconds: float
    at: float


class Rescuer:
    """Watches expired leases and the database's clock for this process."""

    def __init__(self, inbox: Inbox, turn_seconds: float) -> None:
        """Take the ``inbox``, and how many seconds there are from one look to the next."""
        self._inbox = inbox
        #: The most seconds that one look adds: this process may have been stopped, others with it.
        self._most = 2 * turn_seconds
        self.on_orphan: Callable[[], object] = lambda: None
        """Called when an event became an orphan."""
        self._seen: dict[_Key, _Seen] = {}
        self._failed: dict[_Key, float] = {}
        self._offset: float | None = None

    def forget(self) -> None:
        """Begin to count anew: the inbox was away, and no process could renew a lease."""
        self._seen = {}

    def look(self) -> list[Suspect]:
        """Return the suspects. When it raises ``InboxUnavailable``, counting begins anew."""
        try:
            return self._inbox.rescue.suspects()
        except BaseException:
            self.forget()
            raise

    def count(self, suspects: Iterable[Suspect], looked_at: float) -> int:
        """Record for how long each of the ``suspects`` stayed unrenewed since the last time.

        ``looked_at`` is the monotonic time right before they were read. Returns how many are still
        undecided. Raises ``InboxUnavailable`` when one of them cannot be recorded, such as a locked
        row. The others are recorded, as far as there is time.
        """
        seen, self._seen = self._seen, {}
        failed, self._failed = self._failed, {}
        undecided, failure = 0, None
        # What failed comes last, so that it takes no time from what can be recorded.
        for each in sorted(suspects, key=lambda each: failed.get(_key(each), 0.0)):
            key = _key(each)
            before = seen.get(key)
            if key in failed:
                self._failed[key] = failed[key]
            if time.monotonic() > looked_at + self._most:
                undecided += 1
                if before is not None and failure is None:  # else the inbox may have been away
                    self._seen[key] = before
                continue
            try:
                undecided += not self._is_decided(each, before, looked_at)
            except InboxUnavailable as error:
                self._failed[key] = time.monotonic()
                failure = error
        if failure is not None:
            raise failure
        return undecided

    def _is_decided(self, suspect: Suspect, before: _Seen | None, looked_at: float) -> bool:
        seconds = suspect.seconds
        if before is not None and before.seconds == seconds:  # else another process counts
            seconds += min(looked_at - before.at, self._most)
            is_orphan = self._inbox.rescue.suspect(suspect, seconds)
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
        clock = self._inbox.rescue.clock()
        offset = clock - time.monotonic()
        # A late answer is no step: the clock was read after it was asked for.
        back = 0.0 if self._offset is None else self._offset - (clock - asked_at)
        if self._offset is None or back > STEP_SECONDS:
            self._inbox.rescue.repair_times(stepped=back > STEP_SECONDS)
            self._offset = offset
        if back > STEP_SECONDS:
            log.warning("clock_stepped_back", seconds=round(back, 1))
        self._offset = max(self._offset, offset)


def _key(suspect: Suspect) -> _Key:
    return suspect.event_id, suspect.lease_until
