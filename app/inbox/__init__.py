"""The inbox: the durable table of events. It deduplicates, it queues, and it keeps the history.

It knows no Stripe and no HTTP. Every decision about a row is one SQL statement that decides and
records together, so that no two processes can both decide.
"""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

from app.inbox import backup
from app.inbox.activity import Activities, Activity
from app.inbox.administration import Administration
from app.inbox.alert_facts import AlertFacts
from app.inbox.alerts import Alerts
from app.inbox.audit import Audit, AuditEntry
from app.inbox.claims import Claims
from app.inbox.deliveries import Deliveries
from app.inbox.effects import Effect, Effects
from app.inbox.engine.findings import Findings
from app.inbox.erasure import Erasure
from app.inbox.findings import WatchFindings
from app.inbox.gauges import Gauges, read_gauges
from app.inbox.groups import Groups
from app.inbox.indexes import Indexes
from app.inbox.lanes import Lanes
from app.inbox.migrate import Revisions
from app.inbox.models import (
    Attempt,
    Claim,
    Event,
    Failure,
    NewEvent,
    Note,
    RecordedEvent,
    Suspect,
)
from app.inbox.moving import Moving
from app.inbox.overview import Overview
from app.inbox.pairs import Pairs
from app.inbox.rate_limits import RateLimits
from app.inbox.reconciliation import Reconciliation
from app.inbox.rescue import Rescue
from app.inbox.retention import Retention
from app.inbox.sql.administration import TEST_WRITE
from app.inbox.store import Store, StoreOptions
from app.inbox.transfer import Transfer
from app.inbox.type_breakers import TypeBreakers
from app.states import Outcome, State

__all__ = [
    "Activity",
    "Attempt",
    "AuditEntry",
    "Claim",
    "Effect",
    "Event",
    "Failure",
    "Gauges",
    "Inbox",
    "NewEvent",
    "Note",
    "Outcome",
    "RecordedEvent",
    "State",
    "Suspect",
]


class Inbox:
    """The table of events, in SQLite or PostgreSQL, with an API for each caller.

    Every method raises ``InboxUnavailable`` when the database cannot be reached or written.
    """

    def __init__(self, url: str, **options: Unpack[StoreOptions]) -> None:
        """Take the ``url`` of the database. A claim expires ``lease_seconds`` after each renewal.

        An event is dead after ``max_crashes`` consecutive crashes. ``schema`` is the one of
        PostgreSQL with the tables, or None for the one that ``search_path`` finds. If not
        ``migrates``, every method raises ``MigrationPending`` while the tables are older than this
        version. ``listen_url`` is a URL of the same PostgreSQL database without a pooler, for
        notifications. ``rules`` returns the rules by which workers claim; it is called when they
        are needed first.
        """
        self._store = Store(url, **options)
        self.deliveries = Deliveries(self._store)
        self.groups = Groups(self._store)
        self.indexes = Indexes(self._store)
        self.claims = Claims(self._store)
        self.effects = Effects(self._store)
        self.pairs = Pairs(self._store)
        self.moving = Moving(self._store)
        self.rescue = Rescue(self._store)
        self.audit = Audit(self._store)
        self.administration = Administration(self._store)
        self.reconciliation = Reconciliation(self._store)
        self.rate_limits = RateLimits(self._store)
        self.activity = Activities(self._store)
        self.retention = Retention(self._store)
        self.alerts = Alerts(self._store)
        self.alert_facts = AlertFacts(self._store)
        self.findings = WatchFindings(self._store)
        self.overview = Overview(self._store)
        self.erasure = Erasure(self._store)
        self.transfer = Transfer(self._store)
        self.lanes = Lanes(self._store)
        self.type_breakers = TypeBreakers(self._store)

    @property
    def address(self) -> str:
        """The URL of the database, without the password, and the schema if it is set."""
        schema = self._store.schema
        return f"{self._store.engine.address}{f' (schema {schema})' if schema else ''}"

    def migrate(self, *, fail_fast: bool = False) -> None:
        """Bring the tables to this version. Any number of processes may call it at once.

        If ``fail_fast``, a database that cannot be reached fails within two seconds, and a locked
        SQLite file within five. The process must not fork soon after. Raises ``StartError`` if this
        version does not work with the tables, or if another application has one of their names.
        """
        self._store.migrate(fail_fast=fail_fast)

    def upgrade(self) -> Revisions:
        """Bring the tables to this version, even if not ``migrates``.

        Returns the revisions from before. Raises what ``migrate`` raises.
        """
        return self._store.upgrade()

    def revisions(self) -> Revisions:
        """Return the revision of the tables and the one of this version, without any change."""
        return self._store.revisions()

    def back_up(self, file: Path) -> int:
        """Write all events into a new ``file``, as ``app.inbox.backup`` describes."""
        return backup.back_up(self._store, file)

    def restore(self, file: Path) -> int:
        """Write all events of a ``file`` into this inbox, which has to be empty."""
        return backup.restore(self._store, file)

    def gauges(self) -> Gauges:
        """Return the state of the inbox, by queries that are bounded whatever its size."""
        return read_gauges(self._store)

    def examine(self) -> Findings | None:
        """Return the state of SQLite's files, without any change. None on PostgreSQL."""
        return self._store.engine.examine()

    def forbid_creation(self) -> None:
        """Keep this process from creating a missing SQLite file."""
        self._store.engine.forbid_creation()

    def check(self) -> None:
        """Write one row. Raises ``InboxUnavailable`` if the inbox cannot be written."""
        self._store.write(TEST_WRITE)

    def close(self) -> None:
        """Close the connections of all threads. The next statement connects again."""
        self._store.engine.close()
