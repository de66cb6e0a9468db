"""The inbox for a deletion request: erasing the content of all events about an object."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import sqlalchemy as sa

from app.inbox.models import Attempt, Event
from app.inbox.sql import administration
from app.inbox.sql import effects as effect_statements
from app.inbox.sql import erasure as statements
from app.inbox.store import Store

#: Rows that one step of a search reads.
ROWS = 1000


class Erasure:
    """Finds the events about an object, and erases their content. Their ids and times stay."""

    def __init__(self, store: Store) -> None:
        """Take the ``store`` of the events."""
        self._store = store

    def find(self, words: str) -> Iterator[Event]:
        """Yield the events whose content has the id ``words``, in any state.

        It looks at bodies, related objects, accounts, reasons, tracebacks of all attempts, the
        reasons of retries, and the purposes of effects. ``cus_1`` is not found in ``cus_12``.
        """
        whole = re.compile(rf"(?<![A-Za-z0-9]){re.escape(words)}(?![A-Za-z0-9])")
        seen: set[str] = set()
        for event_id in self._candidates(words):
            if event_id not in seen:
                seen.add(event_id)
                event = self._read(event_id)
                if event and any(whole.search(text) for text in self._texts(event)):
                    yield event

    def erase(self, event: Event, words: str) -> bool:
        """Erase the content of an event that is done or dead. It is done, and never runs again.

        False if the event has made an attempt since it was found, or has not ended.
        """
        # The event comes last: if this is interrupted, the event is found again.
        self._store.write(statements.ERASE_ATTEMPTS, event_id=event.id)
        self._store.write(statements.ERASE_RETRIES, event_id=event.id)
        names: dict[str, Any] = {"seen_attempt": event.attempt, "empty": b"", "words": words}
        names["event_id"] = event.id
        if self._store.write(statements.ERASE, durable=True, **names) is None:
            return False
        # Now no attempt reads them any more. If this is interrupted, they are found again.
        self._store.write(statements.ERASE_EFFECTS, durable=True, event_id=event.id, words=words)
        return True

    def erase_audit(self, words: str) -> None:
        """Erase the targets and reasons in the audit log that have the ``words``."""
        self._store.write(statements.ERASE_AUDIT, durable=True, words=words)

    def _candidates(self, words: str) -> Iterator[str]:
        """Yield the ids of all events with the ``words`` somewhere, also within a longer word."""
        found = self._found
        begin: dict[str, Any] = {"received_at": 0.0, "id": ""}
        yield from (row.id for row in found(statements.NEXT_EVENTS, words, begin))
        begin = {"event_id": "", "attempt": 0}
        yield from (row.event_id for row in found(statements.NEXT_ATTEMPTS, words, begin))
        yield from (row.event_id for row in self._store.read(statements.RETRIES, words=words))
        begin = {"event_id": "", "purpose": ""}
        yield from (row.event_id for row in found(statements.NEXT_EFFECTS, words, begin))

    def _found(
        self, statement: sa.Select[Any], words: str, begin: Mapping[str, Any]
    ) -> Iterator[sa.Row[Any]]:
        """Yield the rows of a table with the ``words``. ``begin`` is a key before all of them."""
        after = {f"after_{name}": value for name, value in begin.items()}
        while True:
            rows = self._store.read(
                statement, words=words, bytes=words.encode(), rows=ROWS, **after
            )
            yield from (row for row in rows if row.is_found)
            if len(rows) < ROWS:
                return
            after = {f"after_{name}": getattr(rows[-1], name) for name in begin}

    def _read(self, event_id: str) -> Event | None:
        rows = self._store.read(administration.FIND, event_id=event_id)
        return Event.of(rows[0]) if rows else None

    def _texts(self, event: Event) -> Iterator[str]:
        """Yield all texts that were stored with an event."""
        yield event.body.decode("latin-1")
        yield from filter(
            None, (event.concurrency_key, event.context, event.reason, event.traceback)
        )
        for row in self._store.read(administration.ATTEMPTS, event_id=event.id):
            attempt = Attempt(*tuple(row))
            yield from filter(None, (attempt.reason, attempt.traceback))
        for row in self._store.read(administration.RETRIES, event_id=event.id):
            yield row.why or ""
        for row in self._store.read(effect_statements.OF_EVENT, event_id=event.id):
            yield row.purpose
