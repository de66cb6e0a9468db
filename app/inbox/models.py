"""The values that the inbox takes and returns. Times are seconds since the epoch, UTC."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import sqlalchemy as sa

from app.runtime.clocks import since_boot

#: Added to ``due_at`` of an event that is parked, in seconds: its type is paused
#: (``app/inbox/sql/pauses.py``). A power of two, so that the sum loses few digits.
PARKED = 2.0**36

#: Who has paused a type that fails again and again (``app/processing/type_breaker.py``).
BREAKER = "circuit breaker"

#: What the stored outcome of a parked event begins with if it failed or was released
#: (``app/inbox/sql/parking.py``).
PARKED_PREFIX = "paused_"


@dataclass(frozen=True, slots=True)
class NewEvent:
    """The event of a delivery. ``body`` is the raw bytes, as they were signed."""

    id: str
    type: str
    livemode: bool
    context: str | None
    body: bytes
    concurrency_key: str = ""
    """Two events with one key never run at once. Empty: the event gets a key of its own."""
    trace: str | None = None
    """The W3C traceparent of the delivery."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to run one event now. It ends with its lease unless the lease is renewed.

    ``attempt`` counts the claims of this event from 1. No other claim has the ``token``.
    Attempts repeat after a backup is restored; tokens do not.
    """

    event_id: str
    attempt: int
    type: str
    body: bytes
    token: str
    attempts_used: float = 0.0
    """How many attempts of the retry policy are used up."""
    context: str | None = None
    trace: str | None = None
    """The W3C traceparent of the first delivery, if it was traced."""
    asked_at: float = field(default_factory=since_boot, compare=False)
    """When it was asked for, by ``since_boot``. Its lease began later."""
    superseded: int = 0
    """How many events of its object became done with this claim, because it is newer."""

    def log_fields(self) -> dict[str, Any]:
        """Return the fields that identify this claim in a log line."""
        fields = {"event_id": self.event_id, "event_type": self.type, "attempt": self.attempt}
        return fields if self.context is None else {**fields, "context": self.context}


@dataclass(frozen=True, slots=True)
class Suspect:
    """A running event whose lease ran out by the database's clock.

    ``seconds``: how long live processes have seen this lease unrenewed.
    """

    event_id: str
    attempt: int
    token: str
    lease_until: float
    lease_seconds: float | None
    seconds: float


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """The event of a delivery as it is now, with a claim if the delivery is to run it."""

    state: str
    outcome: str | None
    attempt: int
    claim: Claim | None


@dataclass(frozen=True, slots=True)
class Event:
    """One event of the inbox. A newer version can have stored an outcome that is unknown here."""

    id: str
    type: str
    livemode: bool
    context: str | None
    body: bytes
    state: str
    outcome: str | None
    reason: str | None
    attempt: int
    deliveries: int
    claimed_by: str | None
    received_at: float
    due_at: float
    lease_until: float | None
    settled_at: float | None
    concurrency_key: str
    locked_key: str | None
    """The concurrency key while the event holds it."""
    claimed_at: float | None
    traceback: str | None
    attempts_used: float
    crashes: int
    source: str
    """``delivery`` or ``reconcile``."""
    lease_seconds: float | None
    suspected_lease: float | None
    suspected_seconds: float
    fingerprint: str | None
    """The error group of the latest attempt if it failed."""
    release: str | None
    """The release that made this attempt."""
    trace: str | None
    """The ``traceparent`` of the delivery."""
    erased_at: float | None
    """When the body was erased on request. Such an event is never run."""
    lane: str
    """Where it waits for a worker (``app/inbox/sql/lanes.py``)."""
    slot: int | None
    """Its number among the running events of a type with a limit."""
    is_orphan: bool
    """True if its process is dead or no longer renews its lease: it can be run again."""

    @classmethod
    def of(cls, row: sa.Row[Any]) -> Event:
        """Return the event of a row that ``sql.rescue.shown`` selects."""
        return _as_before_parking(cls(*tuple(row)))


@dataclass(frozen=True, slots=True)
class EventRow:
    """One event in a list: an ``Event`` without its body and its traceback."""

    id: str
    type: str
    livemode: bool
    context: str | None
    state: str
    outcome: str | None
    reason: str | None
    attempt: int
    deliveries: int
    claimed_by: str | None
    received_at: float
    due_at: float
    lease_until: float | None
    settled_at: float | None
    source: str
    fingerprint: str | None
    release: str | None
    erased_at: float | None
    object_id: str | None
    """The id of the related object, or None if there is none."""
    is_orphan: bool

    @classmethod
    def of(cls, row: sa.Row[Any]) -> EventRow:
        """Return the event of a row that ``sql.selection.ROWS`` selects."""
        return _as_before_parking(cls(*tuple(row)))


AnyEvent = TypeVar("AnyEvent", Event, EventRow)


def before_parking(due_at: float, outcome: str | None) -> tuple[float, str | None]:
    """Return ``due_at`` and ``outcome`` as they were before the event was parked, if it is."""
    return (
        due_at - PARKED if due_at >= PARKED else due_at,
        outcome and outcome.removeprefix(PARKED_PREFIX),
    )


def _as_before_parking(event: AnyEvent) -> AnyEvent:
    due_at, outcome = before_parking(event.due_at, event.outcome)
    return replace(event, due_at=due_at, outcome=outcome)


@dataclass(frozen=True, slots=True, order=True)
class Cursor:
    """A place in the order of receipt: at one event, or between two."""

    received_at: float
    id: str = ""

    def __str__(self) -> str:
        """Return it as one word for an address."""
        return f"{self.received_at!r}~{self.id}" if self.id else repr(self.received_at)

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Return the cursor of that word. Raises ``ValueError`` with a sentence."""
        time, _, event_id = text.partition("~")
        try:
            received_at = float(time)
        except ValueError:
            received_at = math.nan
        if not (math.isfinite(received_at) and event_id.isprintable()):
            raise ValueError(f"{text!r} is no place in the list")
        return cls(received_at, event_id)


@dataclass(frozen=True, slots=True)
class Page:
    """Some events of a filter, the latest first, and the cursors of the pages beside it.

    A cursor is None at an end of the list. ``is_partial``: the search ended at its bound before the
    page was full. ``older`` (or ``newer``, for a search in that direction) continues it.
    """

    events: list[EventRow]
    newer: Cursor | None
    older: Cursor | None
    is_partial: bool


@dataclass(frozen=True, slots=True)
class Count:
    """A number of events. ``is_bounded``: the count ended at its bound, so there may be more."""

    number: int
    is_bounded: bool = False

    def __str__(self) -> str:
        """Return the number for a person: ``1,204`` or ``10,000+``."""
        return f"{self.number:,}{'+' if self.is_bounded else ''}"

    def __add__(self, other: Count) -> Count:
        """Return the number of both."""
        return Count(self.number + other.number, self.is_bounded or other.is_bounded)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt that has ended. ``traceback`` holds no local variables."""

    event_id: str
    attempt: int
    claimed_by: str | None
    started_at: float
    ended_at: float
    outcome: str
    reason: str | None
    traceback: str | None
    fingerprint: str | None = None
    release: str | None = None


@dataclass(frozen=True, slots=True)
class Note:
    """An action of a person: its time, the person's name, and the reason."""

    at: float
    by: str
    why: str | None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed, and when the next one is due.

    ``delay`` is in seconds. ``attempts_used`` is how many attempts of the retry policy are used up
    now; None leaves the number as it is. ``fingerprint`` names the error group, and is None if no
    exception ended the attempt. ``exception`` and ``place`` describe the group to a person.
    ``release`` is that of this process.
    """

    reason: str
    traceback: str | None = None
    delay: float = 0.0
    attempts_used: float | None = None
    fingerprint: str | None = None
    release: str | None = None
    exception: str = ""
    place: str = ""
