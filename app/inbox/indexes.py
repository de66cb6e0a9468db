"""Builds missing indexes of ``events`` on PostgreSQL, beside the deliveries.

A migration adds columns and tables in one short transaction. An index of a large table takes
minutes, and in a transaction it would block all writes. So it is built afterwards, with
``CREATE INDEX CONCURRENTLY``. Deliveries and workers do not need it: it is for lists and pages. A
build that is interrupted leaves an invalid index, which the next build replaces.
"""

from __future__ import annotations

import time

import structlog

from app.inbox.sql.indexes import BUILDING, OF_TABLE, Index, indexes_of_events
from app.inbox.store import Store

log = structlog.get_logger(__name__)


#: Seconds between two looks at a build that goes on.
POLL_SECONDS = 0.2


class Indexes:
    """The indexes of ``events``. SQLite lacks none: there the migration creates them."""

    def __init__(self, store: Store) -> None:
        """Take the ``store`` of the events."""
        self._store = store

    def missing(self) -> list[str]:
        """Return the names of the indexes that do not exist, or are not complete."""
        if self._store.engine.unlimited is None:
            return []
        there = self._store.read(OF_TABLE, table=f"{self._prefix()}events")
        return [each.name for each in _missing({row.name: row.is_valid for row in there})]

    def build(self, *, waits: bool = False) -> list[str]:
        """Build the missing indexes, and return their names. Deliveries go on.

        One process at a time builds. Another one waits for it, or does nothing if not ``waits``.
        It takes as long as the database needs, and as long as older transactions are open.
        """
        unlimited = self._store.engine.unlimited
        if unlimited is None or not self.missing():
            return []
        prefix = self._prefix()
        purpose = f"app.indexes.{self._store.engine.schema}"
        with unlimited.connect(purpose, waits=waits) as connection:
            if connection is None:
                return []
            # The server goes on with the statement of a process that was killed.
            while connection.execute(BUILDING, {"table": f"{prefix}events"}).first():
                time.sleep(POLL_SECONDS)
            rows = connection.execute(OF_TABLE, {"table": f"{prefix}events"})
            there = {row.name: row.is_valid for row in rows}
            missing = _missing(there)
            for index in missing:
                started = time.monotonic()
                if index.name in there:
                    connection.exec_driver_sql(f"DROP INDEX CONCURRENTLY {prefix}{index.name}")
                connection.exec_driver_sql(index.create(concurrently=True, table=f"{prefix}events"))
                seconds = round(time.monotonic() - started, 1)
                log.info("index_built", index=index.name, seconds=seconds)
        return [each.name for each in missing]

    def _prefix(self) -> str:
        """Return the schema for a name in SQL, quoted."""
        schema = self._store.engine.schema
        return f"{_quoted(schema)}." if schema else ""


def _missing(there: dict[str, bool]) -> list[Index]:
    return [each for each in indexes_of_events("postgresql") if not there.get(each.name)]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
