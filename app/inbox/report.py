"""The report on the inbox: counts of events, and suspicious findings. It only reads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from app.inbox.sql import report as statements
from app.inbox.store import Store


@dataclass(frozen=True, slots=True)
class Report:
    """The numbers of waiting and dead events, and suspicious findings.

    ``oldest``: seconds since the oldest waiting event was received. ``overdue``: seconds since the
    first of them was due; negative when none is due yet. ``hosts``: the hosts that ran events in
    turns on SQLite, which is for one host. ``not_durable``: settings of PostgreSQL with which it
    can lose a commit. ``lossy_encoding``: the encoding of PostgreSQL's if it lacks characters.
    """

    waiting: int
    oldest: float
    overdue: float
    dead: int
    hosts: tuple[str, ...]
    not_durable: tuple[str, ...]
    lossy_encoding: str | None


def make_report(store: Store) -> Report:
    """Return the report. Raises ``InboxUnavailable``."""
    (waiting,) = store.read(statements.WAITING)
    ((dead,),) = store.read(statements.DEAD)
    return Report(
        waiting=waiting.number,
        oldest=waiting.oldest or 0.0,
        overdue=waiting.overdue or 0.0,
        dead=dead,
        hosts=_overlapping(store.read(statements.HOSTS)) if store.engine.single_host else (),
        not_durable=store.engine.unsafe_settings(),
        lossy_encoding=store.engine.lossy_encoding(),
    )


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
