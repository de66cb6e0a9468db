"""Runs the inbox's statements, and brings its tables to this version before the first one."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from functools import cached_property
from typing import Any, Required, TypedDict

import sqlalchemy as sa

from app.errors import InboxUnavailable, MigrationPending, StartError
from app.inbox import migrate
from app.inbox.claim_rules import ClaimRules
from app.inbox.engine.choice import engine_for
from app.inbox.migrate import Revisions
from app.inbox.models import Claim, Event, EventRow, NewEvent, RecordedEvent
from app.inbox.sql import batch, catalog
from app.inbox.sql.administration import TEST_WRITE
from app.inbox.sql.rows import RecordedRow
from app.runtime.clocks import since_boot
from app.runtime.process_name import new_process_name

#: Seconds that a statement waits while another thread migrates.
MIGRATION_WAIT_SECONDS = 1.0


class StoreOptions(TypedDict, total=False):
    """The arguments of ``Store`` beside the URL. ``Inbox`` describes them."""

    lease_seconds: Required[float]
    max_crashes: int
    schema: str | None
    migrates: bool
    listen_url: str | None
    rules: Callable[[], ClaimRules]


class Store:
    """One database with the inbox's tables."""

    def __init__(  # noqa: PLR0913 - as in ``Inbox``
        self,
        url: str,
        *,
        lease_seconds: float,
        max_crashes: int = 5,
        schema: str | None = None,
        migrates: bool = True,
        listen_url: str | None = None,
        rules: Callable[[], ClaimRules] = ClaimRules,
    ) -> None:
        """Take the database's ``url``, and the settings of ``Inbox``."""
        self.engine = engine_for(url, batch.FORMS, schema=schema, listen_url=listen_url)
        self.schema = schema
        self._migrates = migrates
        self._make_rules = rules
        self.lease_seconds = lease_seconds
        self.max_crashes = max_crashes
        self._tokens = _Tokens()
        self._migrating = threading.Lock()

    @cached_property
    def rules(self) -> ClaimRules:
        """The rules of the handler modules. Commands that read need no sound modules."""
        return self._make_rules()

    @property
    def channel(self) -> str:
        """The channel of notifications. All schemas of a database share their names.

        Replicas of 0.2.0 know only ``events_due``. Without a setting, the schema is ``public`` in
        most databases, so both have one channel.
        """
        return "events_due" if self.schema in {None, "public"} else f"events_due_{self.schema}"

    @property
    def _known_schema(self) -> str | None:
        """The schema of the setting, or the one in which this process found its inbox.

        Behind a pooler another client can change ``search_path`` at any time.
        """
        return self.schema or self.engine.schema

    def _schema_of(self, connection: sa.Connection) -> str | None:
        """Return the schema of the inbox, after ``migrate`` has found it."""
        return self.schema or catalog.current_schema(connection)

    def migrate(self, *, fail_fast: bool = False) -> None:
        """Bring the tables to this version, as ``Inbox.migrate`` describes."""
        if not self._migrating.acquire(timeout=MIGRATION_WAIT_SECONDS):
            raise InboxUnavailable("the inbox is not available", reason="migrating")
        try:
            if not self.engine.migrated:
                with self.engine.migration(fail_fast=fail_fast) as connection:
                    if self._migrates:
                        migrate.upgrade(connection, self._known_schema, may_create=not fail_fast)
                    else:
                        self._require_migrated(connection)
                    schema = self._schema_of(connection)
                self.engine.schema = schema
                self.engine.migrated = True
        finally:
            self._migrating.release()

    def _ensure_migrated(self) -> None:
        """Migrate if the database was unavailable at the start, or was replaced since."""
        if self.engine.migrated:
            return
        try:
            self.migrate(fail_fast=True)
        except StartError as error:  # it would end a start, but this process is running
            reason = "; ".join(error.problems)
            raise InboxUnavailable("the inbox cannot be used", reason=reason) from error

    def _require_migrated(self, connection: sa.Connection) -> None:
        revisions = migrate.examine(connection, self._known_schema)
        if revisions.is_pending:
            raise MigrationPending(revisions.current, revisions.newest)

    def upgrade(self) -> Revisions:
        """Run the migrations that are missing. Returns the revisions from before."""
        with self.engine.migration() as connection:
            before = migrate.upgrade(connection, self._known_schema, may_create=True)
            schema = self._schema_of(connection)
        self.engine.schema = schema
        return before

    def revisions(self) -> Revisions:
        """Return the revision of the tables and the newest one. It changes nothing."""
        with self.engine.migration(fail_fast=True) as connection:
            revisions = migrate.examine(connection, self._known_schema)
            schema = self._schema_of(connection)
        if revisions.current is not None:
            self.engine.schema = schema
        return revisions

    def write(
        self,
        statement: sa.Executable,
        *,
        durable: bool = False,
        slow_ok: bool = False,
        **parameters: Any,
    ) -> tuple[Any, ...] | None:
        """Run one writing statement and return its first row, as ``Engine.execute`` does."""
        self._ensure_migrated()
        return self.engine.execute(statement, parameters, durable=durable, slow_ok=slow_ok)

    def change(
        self, statement: sa.Executable, parameters: dict[str, Any], *, durable: bool = True
    ) -> list[tuple[Any, ...]]:
        """Run one writing statement with the option ``all_rows``, and return its rows."""
        return list(self.write(statement, durable=durable, slow_ok=True, **parameters) or ())

    def sync(self) -> None:
        """Put all earlier commits on the disk.

        On SQLite a durable commit writes the whole log to the disk, with the commits before it. On
        PostgreSQL every commit is durable.
        """
        self.write(TEST_WRITE, durable=True)

    def read(
        self, statement: sa.Executable, *, seconds: float | None = None, **parameters: Any
    ) -> list[sa.Row[Any]]:
        """Run one reading statement and return all rows, as ``Engine.read`` does."""
        self._ensure_migrated()
        return self.engine.read(statement, parameters, seconds)

    def claim(
        self, statement: sa.Executable, *, slow_ok: bool = True, **parameters: Any
    ) -> RecordedEvent | None:
        """Run a statement that claims an event with a new token. None when it returns no row."""
        token, asked_at = self._tokens.new(), since_boot()
        parameters["token"] = token
        parameters["lease_seconds"] = self.lease_seconds
        self._ensure_migrated()
        row = self.engine.execute(statement, parameters, slow_ok=slow_ok)
        if not row:
            return None
        if statement.get_execution_options().get("all_rows"):
            rows = [RecordedRow(*each) for each in row]
            (row,) = [each for each in rows if each.claimed_by == token]
            return event_from_row(row, token, asked_at, superseded=len(rows) - 1)
        return event_from_row(row, token, asked_at)


class _Tokens:
    """Makes tokens for claims. No other process or thread makes the same ones."""

    def __init__(self) -> None:
        self._process = 0
        self._prefix = ""
        self._numbers = itertools.count()

    def new(self) -> str:
        process = os.getpid()
        if process != self._process:  # the first one, or the first after a fork
            self._prefix = new_process_name()
            self._process = process
        return f"{self._prefix}.{next(self._numbers)}"


def row_values(event: NewEvent, rules: ClaimRules) -> dict[str, Any]:
    """Return the parameters that record a new event, in its lane by these ``rules``."""
    return {
        "id": event.id,
        "type": event.type,
        "livemode": event.livemode,
        "context": event.context,
        "body": event.body,
        "concurrency_key": event.concurrency_key or f"event {event.id}",
        "trace": event.trace,
        "lane": rules.lane(event.type),
    }


def seen_values(event: Event | EventRow | None) -> dict[str, Any]:
    """Return the parameters that ask for an event to be as a person has seen it. None: as it is."""
    return {
        "seen_attempt": event and event.attempt,
        "seen_state": event and event.state,
        "seen_due_at": event and event.due_at,
    }


def event_from_row(
    row: tuple[Any, ...] | None,
    token: str | None = None,
    asked_at: float = 0.0,
    superseded: int = 0,
) -> RecordedEvent:
    """Return the event of a ``row``, with its claim if the claim has this ``token``.

    ``superseded`` is the number of events that the claim made done.
    """
    assert row is not None  # noqa: S101 - an upsert without a WHERE always returns its row
    event = row if isinstance(row, RecordedRow) else RecordedRow(*row)
    claim = None
    if token is not None and event.claimed_by == token:
        claim = Claim(
            event_id=event.id,
            attempt=event.attempt,
            type=event.type,
            body=event.body,
            token=token,
            attempts_used=event.attempts_used,
            context=event.context,
            trace=event.trace,
            asked_at=asked_at,
            superseded=superseded,
        )
    return RecordedEvent(event.state, event.outcome, event.attempt, claim)
