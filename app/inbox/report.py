"""The report on the inbox: counts of events, and suspicious findings. It only reads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from app.inbox.filters import EventFilter
from app.inbox.models import Count
from app.inbox.selection import Selection
from app.inbox.sql import report as statements
from app.inbox.store import Store
from app.states import State


@dataclass(frozen=True, slots=True)
class Report:
    """The numbers of waiting and dead events, and suspicious findings.

    ``oldest``: seconds since the oldest waiting event was received. ``overdue``: seconds since the
    first of them was due; negative when none is due yet. ``hosts``: the hosts that ran events in
    turns on SQLite, which is for one host. ``not_durable``: settings of PostgreSQL with which it
    can lose a commit. ``lossy_encoding``: the encoding of PostgreSQL's if it lacks characters.
    """

    waiting: Count
    oldest: float
    overdue: float
    dead: Count
    hosts: tuple[str, ...]
    not_durable: tuple[str, ...]
    lossy_encoding: str | None


def make_report(store: Store) -> Report:
    """Return the report. Raises ``InboxUnavailable``."""
    (found,) = store.read(statements.WAITING)
    bound = statements.BOUND
    waiting = Count(min(found.pending, bound) + found.expired, found.pending > bound)
    return Report(
        waiting=waiting,
        oldest=_age(found.now, found.received, found.expired_received),
        overdue=_age(found.now, found.due, found.expired_due),
        dead=Selection(store).count(EventFilter(state=State.DEAD)),
        hosts=_overlapping(store.read(statements.HOSTS)) if store.engine.single_host else (),
        not_durable=store.engine.unsafe_settings(),
        lossy_encoding=store.engine.lossy_encoding(),
    )


def _age(now: float, *times: float | None) -> float:
    """Return the seconds since the first of the times that are known. 0 if none is."""
    known = [each for each in times if each is not None]
    return now - min(known) if known else 0.0


def _overlapping(rows: Iterable[sa.Row[Any]]) -> tuple[str, ...]:
    """Return the hosts whose times overlap. Those of an old host and its successor do not."""
    overlapping: set[str] = set()
    latest: sa.Row[Any] | None = None
    for row in rows:  # in the order of their begin
        if latest is not None and row.begin < latest.end:
            overlapping |= {latest.host, row.host}
        if latest is None or row.end > latest.end:
            latest = row
    return tuple(sorted(overlapping))
