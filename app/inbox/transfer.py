"""The inbox for exports and imports: whole events, with their history."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from app.inbox.models import before_parking
from app.inbox.records import Record, Row, write_record
from app.inbox.sql import transfer as statements
from app.inbox.sql.reconcile import KNOWN
from app.inbox.sql.schema import attempts, effects, retries, thin_events
from app.inbox.store import Store
from app.states import Outcome, State

#: Events of one step. Their bodies are in memory.
ROWS = 100

#: The reason of an event that was imported while it could still run elsewhere.
IMPORTED = "imported while it was {state}. It may have run where it was exported"

_OPEN = frozenset({State.PENDING, State.RUNNING})


class Added(NamedTuple):
    """The numbers of events that were added, of those that were known, and of added dead ones.

    ``halted`` counts the added events that were pending or running and are dead now.
    """

    added: int = 0
    known: int = 0
    halted: int = 0


class Transfer:
    """Reads whole events, and adds whole events that are missing."""

    def __init__(self, store: Store) -> None:
        """Take the ``store`` of the events."""
        self._store = store

    def read(self, event_ids: Sequence[str]) -> list[Row]:
        """Return the JSON objects of these events, in their order, without those removed since."""
        ids = list(event_ids)
        found = {row.id: _event(row) for row in self._store.read(statements.EVENTS, ids=ids)}
        ended = self._by_event(statements.ATTEMPTS, ids)
        asked = self._by_event(statements.RETRIES, ids)
        done = self._by_event(statements.EFFECTS, ids)
        thin = self._store.read(statements.THIN_EVENTS, ids=ids)
        twins = {row.event_id: row.snapshot_event for row in thin}
        return [
            write_record(found[each], ended[each], asked[each], done[each], twins.get(each))
            for each in ids
            if each in found
        ]

    def _by_event(self, statement: sa.Executable, ids: list[str]) -> dict[str, list[Row]]:
        rows = defaultdict(list)
        for row in self._store.read(statement, ids=ids):
            rows[row.event_id].append(_columns(row))
        return rows

    def add(self, records: Sequence[Record], *, runnable: bool) -> Added:
        """Add the events that are missing, in one transaction. Known events stay unchanged.

        Unless ``runnable``, an event that is pending or running becomes dead: it may still run in
        the inbox that it was exported from. If ``runnable``, it is due now.
        """
        by_id = {each.event_id: each for each in records}
        known = {row.id for row in self._store.read(KNOWN, ids=list(by_id))}
        missing = [each for each in by_id.values() if each.event_id not in known]
        added = self._insert(missing, runnable=runnable) if missing else set()
        halted = sum(by_id[each].event["state"] in _OPEN for each in added)
        return Added(len(added), len(records) - len(added), 0 if runnable else halted)

    def _insert(self, records: Sequence[Record], *, runnable: bool) -> set[str]:
        """Insert events with their history. Returns the ids of those that no delivery added."""
        rows = [_settled(each.event, runnable=runnable) for each in records]
        with self._store.engine.migration() as connection:
            target = connection.execution_options(
                schema_translate_map={None: self._store.engine.schema}
            )
            added = {row.id for row in target.execute(statements.ADD.values(rows))}
            for table, name in (
                *((attempts, "attempts"), (retries, "retries")),
                (effects, "effects"),
            ):
                history = [
                    {**row, "event_id": each.event_id}
                    for each in records
                    if each.event_id in added
                    for row in getattr(each, name)
                ]
                if history:
                    target.execute(sa.insert(table), history)
            thin = [
                {"event_id": each.event_id, "snapshot_event": each.snapshot_event}
                for each in records
                if each.event_id in added and each.snapshot_event
            ]
            if thin:
                target.execute(sa.insert(thin_events), thin)
        return added


def _columns(row: sa.Row[Any]) -> Row:
    return dict(row._mapping)  # noqa: SLF001 - a public attribute of SQLAlchemy's


def _event(row: sa.Row[Any]) -> Row:
    due_at, outcome = before_parking(row.due_at, row.outcome)
    return {**_columns(row), "due_at": due_at, "outcome": outcome}


def _settled(event: Row, *, runnable: bool) -> Row:
    """Return the row to insert. A claim of another inbox does not count."""
    if event["state"] not in _OPEN:
        return event
    now = time.time()
    if runnable:
        return {**event, "state": State.PENDING.value, "due_at": now}
    return {
        **event,
        "state": State.DEAD.value,
        "outcome": Outcome.GAVE_UP.value,
        "reason": IMPORTED.format(state=event["state"]),
        "settled_at": now,
    }
