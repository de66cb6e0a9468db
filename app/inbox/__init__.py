"""The inbox: the durable table of events. It deduplicates, it queues, and it remembers.

It knows nothing of Stripe and nothing of HTTP. Every decision about a row is one SQL
statement that decides and records together, so that two processes cannot both decide.
"""

from __future__ import annotations

import os
import socket
import threading
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
import structlog

from app.errors import Unavailable
from app.inbox import migrate, report, sqlite, statements
from app.inbox.database import Database

log = structlog.get_logger(__name__)

#: Seconds that a delivery waits for another thread that brings the tables to this version.
MIGRATION_TURN = 2.0


@dataclass(frozen=True, slots=True)
class NewEvent:
    """What the inbox keeps of a delivery. ``body`` is the raw bytes, as they were signed."""

    id: str
    type: str
    livemode: bool
    context: str | None
    body: bytes


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


class Inbox:
    """The table of events, in SQLite or PostgreSQL.

    Every method raises ``Unavailable`` when the database cannot be reached or written.
    """

    def __init__(self, url: str, *, lease_seconds: float) -> None:
        """Take the database's ``url`` and for how many seconds a claim holds unless renewed."""
        self._database = Database(url)
        self._lease_seconds = lease_seconds
        self._host = socket.gethostname()
        self._migrated = False
        self._migrating = threading.Lock()

    @property
    def address(self) -> str:
        """Where the inbox is, without the password."""
        return self._database.address

    def migrate(self) -> None:
        """Bring the tables to this version. Any number of processes may call it at once.

        Raises ``StartError`` when a newer version of the service has already changed them.
        """
        if not self._migrating.acquire(timeout=MIGRATION_TURN):
            raise Unavailable("the inbox is not available", reason="migrating", retry_after=5)
        try:
            if not self._migrated:
                self._warn_about_sqlite()
                with self._database.migration() as connection:
                    migrate.upgrade(connection)
                self._migrated = True
        finally:
            self._migrating.release()

    def _warn_about_sqlite(self) -> None:
        if self._database.file and sqlite.journal_mode(sqlite.VERSION) != "WAL":
            log.warning(
                "sqlite_without_wal",
                sqlite_version=".".join(map(str, sqlite.VERSION)),
                advice="this SQLite can lose commits in WAL mode; slower but safe TRUNCATE is"
                " used. SQLite 3.51.3 or newer (the package pysqlite3) has the correction",
            )

    def _write(
        self, statement: sa.Executable, *, durable: bool = False, **parameters: Any
    ) -> tuple[Any, ...] | None:
        if not self._migrated:  # the database was not there when the service started
            self.migrate()
        return self._database.execute(statement, parameters, durable=durable)

    def accept(self, event: NewEvent) -> Accepted:
        """Record one delivery of ``event``, and claim the event if it may run now.

        It may when it is new, pending, or running under a lease that has ended. Recording and
        claiming are one statement, so of any number of simultaneous deliveries one gets the
        claim.
        """
        # A name for this claim that no other process or thread can come upon.
        token = f"{self._host}:{os.getpid()}:{os.urandom(8).hex()}"
        row = self._write(
            statements.ACCEPT,
            **_values(event),
            token=token,
            lease_seconds=self._lease_seconds,
        )
        return _accepted(row, token)

    def set_aside(self, event: NewEvent, outcome: str) -> Accepted:
        """Record one delivery of an event that is not to be run, with the ``outcome`` why.

        An event that the inbox has already keeps its state. One that was set aside is run
        when a later delivery is given to ``accept``.
        """
        row = self._write(statements.SET_ASIDE, durable=True, **_values(event), outcome=outcome)
        return _accepted(row, None)

    def count(self, event_id: str) -> int | None:
        """Record one delivery of an event that the caller knows to be running.

        Returns the number of its latest attempt, or None when the inbox does not have it.
        """
        row = self._write(statements.COUNT, event_id=event_id)
        return row[0] if row else None

    def renew(self, claim: Claim) -> bool:
        """Let the lease begin anew. False when the claim is no longer this one."""
        return self._settles(statements.RENEW, claim, lease_seconds=self._lease_seconds)

    def finish(self, claim: Claim) -> bool:
        """Record that the callback succeeded. False when another attempt took the event."""
        return self._settles(statements.SETTLE, claim, state="done", outcome="handled", reason=None)

    def fail(self, claim: Claim, reason: str) -> bool:
        """Release the event to be run again. False when another attempt took the event."""
        return self._settles(
            statements.SETTLE, claim, state="pending", outcome="failed", reason=reason
        )

    def bury(self, claim: Claim, outcome: str, reason: str) -> bool:
        """Make the event dead: it needs a person. False when another attempt took it."""
        # Durable, as when an event is set aside: Stripe is answered 2xx, and no callback
        # succeeded, so this row is all that there is.
        return self._settles(
            statements.SETTLE, claim, durable=True, state="dead", outcome=outcome, reason=reason
        )

    def _settles(
        self, statement: sa.Executable, claim: Claim, *, durable: bool = False, **values: Any
    ) -> bool:
        names = {"event_id": claim.event_id, "claim": claim.attempt, "token": claim.token}
        return self._write(statement, durable=durable, **names, **values) is not None

    def find(self, event_id: str) -> Event | None:
        """Return the event of that id, if the inbox has it."""
        rows = self._read(statements.FIND, event_id=event_id)
        return Event(**rows[0]._asdict()) if rows else None

    def latest(self, limit: int) -> list[Event]:
        """Return the ``limit`` events that were received last, the latest first."""
        return [Event(**row._asdict()) for row in self._read(statements.LATEST, limit=limit)]

    def _read(self, statement: sa.Executable, **parameters: Any) -> list[sa.Row[Any]]:
        if not self._migrated:
            self.migrate()
        return self._database.read(statement, parameters)

    def report(self) -> report.Report:
        """Say what a person should know: what waits, what is dead, and what looks wrong."""
        return report.make(self._read, on_sqlite=self._database.file is not None)

    def check(self) -> None:
        """Write one row, to find out whether the inbox can be written."""
        self._write(statements.PROBE)

    def close(self) -> None:
        """Close this thread's connection and the idle ones."""
        self._database.close()


def _values(event: NewEvent) -> dict[str, Any]:
    return {
        "id": event.id,
        "type": event.type,
        "livemode": event.livemode,
        "context": event.context,
        "body": event.body,
    }


def _accepted(row: tuple[Any, ...] | None, token: str | None) -> Accepted:
    assert row is not None  # noqa: S101 - an upsert without a WHERE always returns its row
    event_id, event_type, body, state, outcome, attempt, claimed_by = row
    claim = None
    if token is not None and claimed_by == token:
        claim = Claim(event_id, attempt, event_type, body, token)
    return Accepted(state, outcome, attempt, claim)
