"""The report on the inbox: counts of events, and suspicious findings. It only reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from app.inbox.sql.schema import events, now

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

#: Seconds back within which two hosts that ran events at the same time are reported.
LOOK_BACK = 24 * 3600

_waits = sa.or_(
    events.c.state == "pending",
    sa.and_(events.c.state == "running", events.c.lease_until < now()),
)
_WAITING = sa.select(
    sa.func.count().label("number"),
    (now() - sa.func.min(events.c.received_at)).label("oldest"),
    (now() - sa.func.min(events.c.due_at)).label("overdue"),
).where(_waits)

_DEAD = sa.select(sa.func.count()).where(events.c.state == "dead")

# A token begins with the host, the process and a random number (``store``).
_host = sa.func.substr(events.c.claimed_by, 1, sa.func.instr(events.c.claimed_by, ":") - 1)
_HOSTS = (
    sa.select(
        _host.label("host"),
        sa.func.min(events.c.settled_at).label("begin"),
        sa.func.max(events.c.settled_at).label("end"),
    )
    .where(events.c.claimed_by.is_not(None), events.c.settled_at > now() - LOOK_BACK)
    .group_by(_host)
    .order_by("begin")
)


@dataclass(frozen=True, slots=True)
class Report:
    """The numbers of waiting and dead events, and two suspicious findings.

    ``oldest``: seconds since the oldest waiting event was received. ``overdue``: seconds since the
    first of them was due; negative when none is due yet. ``hosts``: the hosts that ran events in
    turns on SQLite, which is for one host. ``not_durable``: settings of PostgreSQL with which it
    can lose a commit.
    """

    waiting: int
    oldest: float
    overdue: float
    dead: int
    hosts: tuple[str, ...]
    not_durable: tuple[str, ...]


def make(
    read: Callable[..., list[sa.Row[Any]]], *, single_host: bool, unsafe_settings: tuple[str, ...]
) -> Report:
    """Return the report, of statements that ``read`` runs. Raises what ``read`` raises.

    ``single_host`` and ``unsafe_settings`` are those of the engine.
    """
    (waiting,) = read(_WAITING)
    ((dead,),) = read(_DEAD)
    return Report(
        waiting=waiting.number,
        oldest=waiting.oldest or 0.0,
        overdue=waiting.overdue or 0.0,
        dead=dead,
        hosts=_in_turns(read(_HOSTS)) if single_host else (),
        not_durable=unsafe_settings,
    )


def _in_turns(rows: Iterable[sa.Row[Any]]) -> tuple[str, ...]:
    """Return the hosts whose times overlap. Those of an old host and its successor do not."""
    overlapping: set[str] = set()
    latest: sa.Row[Any] | None = None
    for row in rows:  # in the order of their begin
        if latest is not None and row.begin < latest.end:
            overlapping |= {latest.host, row.host}
        if latest is None or row.end > latest.end:
            latest = row
    return tuple(sorted(overlapping))
