"""The statements that select and count the events of a filter."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from app.inbox.filters import EventFilter
from app.inbox.sql.rescue import shown
from app.inbox.sql.schema import events


def select_events(matching: EventFilter, *, oldest_first: bool) -> sa.Select[Any]:
    """Return the statement that selects the events, up to its parameter ``limit``."""
    order = [events.c.received_at, events.c.id]
    return (
        sa.select(*shown)
        .where(*_conditions(matching))
        .order_by(*(order if oldest_first else [each.desc() for each in order]))
        .limit(sa.bindparam("limit"))
    )


def count_events(matching: EventFilter) -> sa.Select[Any]:
    """Return the statement that counts the events."""
    return sa.select(sa.func.count()).select_from(events).where(*_conditions(matching))


def _conditions(matching: EventFilter) -> list[sa.ColumnElement[bool]]:
    names = ("state", "type", "context", "outcome", "livemode")
    wanted = {name: getattr(matching, name) for name in names}
    conditions = [events.c[name] == value for name, value in wanted.items() if value is not None]
    if matching.since is not None:
        conditions.append(events.c.received_at >= matching.since)
    return conditions
