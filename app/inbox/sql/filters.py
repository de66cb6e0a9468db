"""Filters for the events that a person lists, counts or retries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from app.inbox.sql.rescue import shown
from app.inbox.sql.schema import events

#: The states that an event can be in.
STATES = ("pending", "running", "done", "dead")


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Conditions on events. None is no condition. ``since`` is seconds since the epoch."""

    state: str | None = None
    type: str | None = None
    context: str | None = None
    since: float | None = None

    def _conditions(self) -> list[sa.ColumnElement[bool]]:
        wanted = {"state": self.state, "type": self.type, "context": self.context}
        conditions = [
            events.c[name] == value for name, value in wanted.items() if value is not None
        ]
        if self.since is not None:
            conditions.append(events.c.received_at >= self.since)
        return conditions

    def words(self) -> str:
        """Return the conditions as words of a sentence: ``are dead``."""
        words = ["are", self.state or "here"]
        words += [f"of type {self.type}"] if self.type else []
        words += [f"of {self.context}"] if self.context else []
        words += ["since then"] if self.since is not None else []
        return " ".join(words)

    def select(self, *, oldest_first: bool) -> sa.Select[Any]:
        """Return the statement that selects the events, up to its parameter ``limit``."""
        order = [events.c.received_at, events.c.id]
        return (
            sa.select(*shown)
            .where(*self._conditions())
            .order_by(*(order if oldest_first else [each.desc() for each in order]))
            .limit(sa.bindparam("limit"))
        )

    def count(self) -> sa.Select[Any]:
        """Return the statement that counts the events."""
        return sa.select(sa.func.count()).select_from(events).where(*self._conditions())
