"""The inbox: the durable table of events. It deduplicates, it queues, and it remembers.

It knows nothing of Stripe and nothing of HTTP. Every decision about a row is one SQL
statement that decides and records together, so that two processes cannot both decide.
"""

from __future__ import annotations

import itertools
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
import structlog

from app.errors import Unavailable
from app.inbox import migrate
from app.inbox.engine import deadline, sqlite
from app.inbox.engine.database import Database
from app.inbox.engine.sqlite_file import Findings
from app.inbox.sql import rate_limit, reconcile, report, rescue, statements
from app.inbox.sql.filters import Wanted
from app.runtime.clocks import since_boot

log = structlog.get_logger(__name__)

#: Seconds that a delivery waits for another thread that brings the tables to this version.
MIGRATION_TURN = 1.0

#: Seconds between two words to the workers of other processes.
NOTIFY_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class NewEvent:
    """What the inbox keeps of a delivery. ``body`` is the raw bytes, as they were signed."""

    id: str
    type: str
    livemode: bool
    context: str | None
    body: bytes
    subject: str = ""
    """What may not run beside another of its kind. Empty: the event is alone of its kind."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to run one event now. It ends with its lease unless it is renewed.

    ``attempt`` counts the claims of this event from 1. Together with the id and the ``token``,
    which no other claim has, it names the claim, so that whoever held another one cannot settle
    this one: not an earlier one, nor one that a restored database has forgotten.
    """

    event_id: str
    attempt: int
    type: str
    body: bytes
    token: str
    spent: float = 0.0
    """How much of its attempts the event has used up."""
    context: str | None = None
    asked_at: float = field(default_factory=since_boot, compare=False)
    """When it was asked for, by ``since_boot``: its lease began later."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """A running event whose lease ran out by the database's clock.

    ``seconds`` is for how long live processes have seen this lease unrenewed.
    """

    event_id: str
    attempt: int
    token: str
    lease_until: float
    lease_seconds: float | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Accepted:
    """What the inbox says to a delivery: the event's state, and a claim if it may run now."""

    state: str
    outcome: str | None
    attempt: int
    claim: Claim | None


@dataclass(frozen=True, slots=True)
class Event:
    """One event as the inbox has it. Times are seconds since the epoch, UTC."""

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
    subject: str
    holds: str | None
    claimed_at: float | None
    traceback: str | None
    spent: float
    crashes: int
    source: str
    """How it came: by a ``delivery``, or by ``reconcile``."""
    lease_seconds: float | None
    suspected_lease: float | None
    suspected_seconds: float

    @property
    def is_orphan(self) -> bool:
        """Whether its process is dead, or no longer renews its lease: it can be run again."""
        return (
            self.state == "running"
            and self.suspected_lease == self.lease_until
            and self.suspected_seconds >= rescue.grace_seconds(self.lease_seconds)
        )


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


@dataclass(frozen=True, slots=True)
class Note:
    """That a person did something: when, who, and why."""

    at: float
    by: str
    why: str | None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed, and what that means for the next.

    ``delay`` is in seconds. ``spent`` is how much of its attempts the event has used up by now;
    None leaves it as it is.
    """

    reason: str
    traceback: str | None = None
    delay: float = 0.0
    spent: float | None = None


class Inbox:
    """The table of events, in SQLite or PostgreSQL.

    Every method raises ``Unavailable`` when the database cannot be reached or written.
    """

    def __init__(self, url: str, *, lease_seconds: float, max_crashes: int = 5) -> None:
        """Take the database's ``url`` and for how many seconds a claim holds unless renewed.

        After ``max_crashes`` claims that ended with no word an event is dead.
        """
        self._database = Database(url)
        self._lease_seconds = lease_seconds
        self._max_crashes = max_crashes
        self._notified = 0.0
        self._host = socket.gethostname()
        self._process = 0
        self._prefix = ""
        self._numbers = itertools.count()
        self._migrating = threading.Lock()

    @property
    def address(self) -> str:
        """Where the inbox is, without the password."""
        return self._database.address

    def group_commit(self) -> AbstractContextManager[None]:
        """Let what this thread writes in the block be committed with what others write.

        On SQLite, and for a thread that is about to write: the others wait a moment for it.
        """
        return self._database.siblings

    def migrate(self, *, hurried: bool = False) -> None:
        """Bring the tables to this version. Any number of processes may call it at once.

        When ``hurried``, a database that is not there is found out within two seconds; the
        process must not fork soon after. Raises ``StartError`` when a newer version of the
        service has already changed them.
        """
        if not self._migrating.acquire(timeout=MIGRATION_TURN):
            raise Unavailable("the inbox is not available", reason="migrating", retry_after=5)
        try:
            if not self._database.migrated:
                self._warn_about_sqlite()
                with self._database.migration(hurried=hurried) as connection:
                    migrate.upgrade(connection)
        finally:
            self._migrating.release()

    def examine(self) -> Findings | None:
        """Return the state of SQLite's files, without any change. None on PostgreSQL."""
        return self._database.examine()

    def create_nothing(self) -> None:
        """Make no file of SQLite's in this process where none is."""
        self._database.may_create = False

    def _warn_about_sqlite(self) -> None:
        if self._database.file and sqlite.journal_mode(sqlite.VERSION) != "WAL":
            log.warning(
                "sqlite_without_wal",
                sqlite_version=".".join(map(str, sqlite.VERSION)),
                advice="this SQLite can lose commits in WAL mode; slower but safe TRUNCATE is"
                " used. SQLite 3.51.3 or newer (the package pysqlite3) has the correction",
            )

    def _write(
        self,
        statement: sa.Executable,
        *,
        durable: bool = False,
        patient: bool = False,
        **parameters: Any,
    ) -> tuple[Any, ...] | None:
        if not self._database.migrated:  # it was not there at the start, or is another file now
            self.migrate(hurried=True)
        return self._database.execute(statement, parameters, durable=durable, patient=patient)

    def accept(self, event: NewEvent) -> Accepted:
        """Record one delivery of ``event``, and claim the event if it may run now.

        It may when it is new, pending, or an orphan. Recording and claiming are one statement,
        so of any number of simultaneous deliveries one gets the claim.
        """
        token, asked_at = self._token(), since_boot()
        row = self._write(
            statements.ACCEPT,
            **_values(event),
            token=token,
            lease_seconds=self._lease_seconds,
            max_crashes=self._max_crashes,
        )
        accepted = _accepted(row, token, asked_at)
        if accepted.outcome == "crashed":  # it may have been given up on in this statement
            self._write(statements.PROBE, durable=True)
        return accepted

    def _token(self) -> str:
        """Return a name for a claim that no other process or thread can come upon."""
        process = os.getpid()
        if process != self._process:  # the first one, or the first after a fork
            self._prefix = f"{self._host}:{process}:{os.urandom(8).hex()}"
            self._process = process
        return f"{self._prefix}.{next(self._numbers)}"

    def record(self, event: NewEvent) -> Accepted:
        """Record one delivery of ``event``, for a worker to run it.

        When this returns it is on the disk. An event that the inbox has already keeps its state.
        """
        return _accepted(self._write(statements.RECORD, durable=True, **_values(event)))

    def notify(self) -> None:
        """Tell the workers of other processes that something is due, if the database can.

        Not more often than is of use: they look by themselves as well.
        """
        if self._database.file is None and time.monotonic() > self._notified + NOTIFY_SECONDS:
            self._notified = time.monotonic()
            self._write(statements.NOTIFY)

    def listen(self, act: Callable[[], object], stopping: threading.Event) -> None:
        """Call ``act`` whenever another process says that something is due, until ``stopping``.

        Returns at once where the database has no way to say so, as SQLite has none.
        """
        if self._database.file is None:
            self._database.listen("events_due", act, stopping)

    def claim_due(self, *, livemode: bool) -> Claim | None:
        """Claim the event of this mode that has been due for longest, if its object is free."""
        return self._claim(statements.CLAIM_DUE, livemode=livemode)

    def claim_orphan(self, *, livemode: bool) -> Claim | None:
        """Claim an orphan of this mode."""
        return self._claim(
            statements.CLAIM_ORPHAN, livemode=livemode, max_crashes=self._max_crashes
        )

    def claim_one(self, event_id: str, *, again: bool = False) -> Claim | None:
        """Claim this event whatever its state, but not while it runs.

        When it is done, only ``again``.
        """
        return self._claim(statements.CLAIM_ONE, event_id=event_id, again=again)

    def _claim(self, statement: sa.Executable, **parameters: Any) -> Claim | None:
        token, asked_at = self._token(), since_boot()
        row = self._write(
            statement,
            patient=True,
            token=token,
            lease_seconds=self._lease_seconds,
            **parameters,
        )
        return _accepted(row, token, asked_at).claim if row else None

    def bury_poison(self) -> dict[str, object] | None:
        """Give up on one event that has killed too many processes. Returns what to call it."""
        row = self._write(statements.BURY_POISON, patient=True, max_crashes=self._max_crashes)
        if row is None:
            return None
        names = zip(("event_id", "event_type", "attempt", "context"), row, strict=True)
        return {name: value for name, value in names if value is not None}

    def note_retry(self, event_id: str, *, by: str, why: str | None, again: bool = False) -> bool:
        """Write down who has the event run again, and why. False when it cannot be."""
        names: dict[str, Any] = {"event_id": event_id, "by": by, "why": why, "again": again}
        return self._write(statements.NOTE_RETRY, durable=True, **names) is not None

    def reopen(self, event_id: str, *, again: bool = False) -> bool:
        """Make the event due for the workers at once. False when it runs, or is done."""
        return self._write(statements.REOPEN, event_id=event_id, again=again) is not None

    def pause(self, *, by: str, why: str | None) -> bool:
        """Let no worker claim anything until ``resume``. False when it is so already."""
        return self._write(statements.PAUSE, durable=True, by=by, why=why) is not None

    def resume(self) -> bool:
        """Let the workers claim again. False when they may already."""
        return self._write(statements.RESUME, durable=True) is not None

    def paused(self) -> Note | None:
        """Return who paused the workers, and why, if they are paused."""
        rows = self._read(statements.PAUSED, seconds=deadline.SECONDS)  # a probe waits for it
        return Note(**rows[0]._asdict()) if rows else None

    def set_aside(self, event: NewEvent, outcome: str) -> Accepted:
        """Record one delivery of an event that is not to be run, with the ``outcome`` why.

        An event that the inbox has already keeps its state. One that was set aside is run
        when a later delivery is given to ``accept``.
        """
        row = self._write(statements.SET_ASIDE, durable=True, **_values(event), outcome=outcome)
        return _accepted(row)

    def renew(self, claim: Claim) -> bool:
        """Let the lease begin anew. False when the claim is no longer this one."""
        return self._settles(statements.RENEW, claim, lease_seconds=self._lease_seconds)

    def renew_all(self, claims: list[Claim]) -> None:
        """Let the leases of these ``claims`` begin anew, in one statement.

        It skips locked rows and lost claims.
        """
        names: dict[str, Any] = {}
        for number, each in enumerate(claims):
            names |= {f"event_id_{number}": each.event_id, f"token_{number}": each.token}
        statement = statements.renew_many(len(claims))
        self._write(statement, lease_seconds=self._lease_seconds, **names)

    def suspects(self) -> list[Suspect]:
        """Return the running events whose lease ran out, and that are no orphans yet."""
        rows = self._read(rescue.SUSPECTS, seconds=deadline.SECONDS)
        return [Suspect(**row._asdict()) for row in rows]

    def suspect(self, suspect: Suspect, seconds: float) -> bool | None:
        """Record for how many ``seconds`` in all the lease was seen unrenewed.

        Returns whether the event is an orphan now, and None when the lease was renewed, or
        another process recorded something since ``suspect`` was read.
        """
        row = self._write(
            rescue.SUSPECT,
            event_id=suspect.event_id,
            claim=suspect.attempt,
            token=suspect.token,
            suspected=suspect.lease_until,
            before=suspect.seconds,
            seconds=seconds,
        )
        return bool(row[0]) if row else None

    def clock(self) -> float:
        """Return the time of the database, in seconds since the epoch."""
        return float(self._read(rescue.CLOCK, seconds=deadline.SECONDS)[0][0])

    def repair_times(self, *, stepped: bool) -> None:
        """Make due what would wait because the database's clock stepped back.

        ``stepped``: the step was observed just now. Any number of processes may call this. An event
        with a delay waits for its delay again.
        """
        self._write(rescue.REPAIR_EVENTS, patient=True)
        self._write(rescue.REPAIR_BUDGETS, ahead=0.0 if stepped else rescue.SLOT_SECONDS)
        if stepped:
            self._write(rescue.REPAIR_LEADERS)

    def finish(self, claim: Claim) -> bool:
        """Record that the callback succeeded. False when another attempt took the event."""
        return self._settles(statements.FINISH, claim)

    def fail(self, claim: Claim, failure: Failure) -> bool:
        """Release the event to be run again. False when another attempt took the event."""
        return self._settle(claim, "pending", "failed", failure)

    def release(self, claim: Claim, delay: float) -> bool:
        """Give the claim back, to be taken after ``delay`` seconds. Nothing is used up."""
        failure = Failure("the process was stopped", delay=delay)
        return self._settle(claim, "pending", "released", failure)

    def bury(self, claim: Claim, outcome: str, failure: Failure) -> bool:
        """Make the event dead: it needs a person. False when another attempt took it."""
        # Durable, as when an event is set aside: Stripe is answered 2xx, and no callback
        # succeeded, so this row is all that there is.
        return self._settle(claim, "dead", outcome, failure, durable=True)

    def _settle(
        self,
        claim: Claim,
        state: str,
        outcome: str,
        failure: Failure | None = None,
        *,
        durable: bool = False,
    ) -> bool:
        spent = failure.spent if failure else None
        return self._settles(
            statements.SETTLE,
            claim,
            durable=durable,
            state=state,
            outcome=outcome,
            reason=failure.reason if failure else None,
            traceback=failure.traceback if failure else None,
            delay=failure.delay if failure else 0.0,
            spent=claim.spent if spent is None else spent,
        )

    def _settles(
        self, statement: sa.Executable, claim: Claim, *, durable: bool = False, **values: Any
    ) -> bool:
        names: dict[str, Any] = {
            "event_id": claim.event_id,
            "claim": claim.attempt,
            "token": claim.token,
        }
        return self._write(statement, durable=durable, **names, **values) is not None

    def find(self, event_id: str) -> Event | None:
        """Return the event of that id, if the inbox has it."""
        rows = self._read(statements.FIND, event_id=event_id)
        return Event(**rows[0]._asdict()) if rows else None

    def attempts(self, event_id: str) -> list[Attempt]:
        """Return the attempts of the event that have ended, the first one first."""
        event = self.find(event_id)
        rows = self._read(statements.ATTEMPTS, event_id=event_id)
        attempts = [Attempt(**row._asdict()) for row in rows]
        latest = _latest_attempt(event) if event else None
        # The next one may have begun between the two questions.
        if latest and latest.attempt not in {each.attempt for each in attempts}:
            attempts.append(latest)
        return attempts

    def retries(self, event_id: str) -> list[Note]:
        """Return who had the event run again, and why, the first one first."""
        return [Note(**row._asdict()) for row in self._read(statements.RETRIES, event_id=event_id)]

    def select(self, wanted: Wanted, limit: int, *, oldest_first: bool = False) -> list[Event]:
        """Return up to ``limit`` events that are ``wanted``, by their time of receipt."""
        rows = self._read(wanted.select(oldest_first=oldest_first), limit=limit)
        return [Event(**row._asdict()) for row in rows]

    def count_wanted(self, wanted: Wanted) -> int:
        """Return how many events are ``wanted``."""
        return int(self._read(wanted.count())[0][0])

    def latest(self, limit: int) -> list[Event]:
        """Return the ``limit`` events that were received last, the latest first."""
        return [Event(**row._asdict()) for row in self._read(statements.LATEST, limit=limit)]

    def _read(
        self, statement: sa.Executable, *, seconds: float = deadline.READ_SECONDS, **parameters: Any
    ) -> list[sa.Row[Any]]:
        if not self._database.migrated:
            self.migrate(hurried=True)
        return self._database.read(statement, parameters, seconds)

    def report(self) -> report.Report:
        """Say what a person should know: what waits, what is dead, and what looks wrong."""
        return report.make(self._read, on_sqlite=self._database.file is not None)

    def known(self, event_ids: list[str]) -> set[str]:
        """Return which of these events the inbox has."""
        return {row[0] for row in self._read(reconcile.KNOWN, ids=event_ids)}

    def bring_back(self, event: NewEvent, *, aside: bool = False, ahead: float = 0.0) -> bool:
        """Record an event that no delivery brought. False when the inbox has it already.

        It is pending then, or put ``aside`` as one of the other mode. It is due since ``ahead``
        seconds: the clock of a database is too coarse to tell which of many was recorded first.
        When this returns it is on the disk.
        """
        statement = reconcile.BRING_BACK_ASIDE if aside else reconcile.BRING_BACK
        row = self._write(statement, durable=True, **_values(event), ahead=ahead)
        return row is not None

    def open_ids(self, *, livemode: bool) -> list[str]:
        """Return the events that were brought back, are due and not settled, the first first."""
        names = {"livemode": livemode, "max_crashes": self._max_crashes}
        return [row[0] for row in self._read(reconcile.OPEN, **names)]

    def claim_open(self, event_id: str, *, livemode: bool) -> Claim | None:
        """Claim one of them, if it still may be."""
        return self._claim(
            reconcile.CLAIM_OPEN,
            event_id=event_id,
            livemode=livemode,
            max_crashes=self._max_crashes,
        )

    def reached(self, *, livemode: bool, context: str) -> dict[str, float]:
        """Return up to when the events of each type were reconciled, for one account."""
        rows = self._read(reconcile.REACHED, livemode=livemode, context=context)
        return {row.type: row.reached for row in rows}

    def advance(
        self, *, livemode: bool, context: str, type_: str, begin: float, end: float
    ) -> bool:
        """Record that a type was reconciled from ``begin`` to ``end``.

        False when the watermark is further on, or before ``begin``.
        """
        row = self._write(
            reconcile.ADVANCE,
            livemode=livemode,
            context=context,
            type=type_,
            reached=end,
            begin=begin,
        )
        return row is not None

    def lead(self, name: str, holder: str, seconds: float) -> bool:
        """Take or keep, for so many seconds, what only one may do. False when another has it."""
        row = self._write(reconcile.LEAD, name=name, holder=holder, seconds=seconds)
        return row is not None

    def reserve(self, bucket: str, slots: int, interval: float) -> tuple[float, float]:
        """Reserve slots for requests, ``interval`` seconds apart.

        Returns in how many seconds the first one is, and how far apart they are.
        """
        row = self._write(rate_limit.RESERVE, name=bucket, slots=float(slots), interval=interval)
        assert row is not None  # noqa: S101 - an upsert without a WHERE always returns its row
        end, pace = row
        return end - slots * pace, pace

    def slow_down(self, bucket: str, *, pause: float, slow: float) -> None:
        """Let the bucket have no slot for ``pause`` seconds, and half as many for ``slow``."""
        self._write(rate_limit.SLOW_DOWN, name=bucket, pause=pause, slow=slow)

    def check(self) -> None:
        """Write one row, to find out whether the inbox can be written."""
        self._write(statements.PROBE)

    def close(self) -> None:
        """Close this thread's connection and the idle ones."""
        self._database.close()


def _latest_attempt(event: Event) -> Attempt | None:
    """Return the attempt that the event's own row holds, if it has ended."""
    if event.state == "running" or event.claimed_at is None:
        return None
    return Attempt(
        event_id=event.id,
        attempt=event.attempt,
        claimed_by=event.claimed_by,
        started_at=event.claimed_at,
        ended_at=event.settled_at or event.claimed_at,
        outcome=event.outcome or "unknown",
        reason=event.reason,
        traceback=event.traceback,
    )


def _values(event: NewEvent) -> dict[str, Any]:
    return {
        "id": event.id,
        "type": event.type,
        "livemode": event.livemode,
        "context": event.context,
        "body": event.body,
        "subject": event.subject or f"event {event.id}",
    }


def _accepted(
    row: tuple[Any, ...] | None, token: str | None = None, asked_at: float = 0.0
) -> Accepted:
    assert row is not None  # noqa: S101 - an upsert without a WHERE always returns its row
    event_id, event_type, body, state, outcome, attempt, claimed_by, spent, context = row
    claim = None
    if token is not None and claimed_by == token:
        claim = Claim(event_id, attempt, event_type, body, token, spent, context, asked_at)
    return Accepted(state, outcome, attempt, claim)
