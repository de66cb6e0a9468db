"""The inbox for the gauges of ``/metrics``: bounded queries, whatever the size of the inbox."""

from __future__ import annotations

from dataclasses import dataclass

from app.inbox.activity import Activities
from app.inbox.administration import Administration
from app.inbox.engine import limits
from app.inbox.groups import Group, Groups
from app.inbox.sql import gauges as statements
from app.inbox.store import Store

#: Each error group is a series. Their number must not grow with the errors of all times.
MOST_GROUPS = 20


@dataclass(frozen=True, slots=True)
class Gauges:
    """The state of the inbox.

    ``events``: the numbers of events by state, up to 10,000 each. ``oldest_due_seconds``: the time
    that the oldest due event has waited, 0 if none is due. ``last_deliveries``: the time of the
    last delivery by signing secret, in seconds since the epoch. ``groups``: the error groups that
    failed last.
    """

    events: dict[str, int]
    oldest_due_seconds: float
    last_deliveries: dict[str, float]
    groups: tuple[Group, ...] = ()


def read_gauges(store: Store) -> Gauges:
    """Return the state of the inbox. Raises ``InboxUnavailable`` within a few seconds."""
    (numbers,) = store.read(statements.NUMBERS, seconds=limits.SECONDS)
    return Gauges(
        events=dict(zip(map(str, statements.STATES), numbers, strict=True)),
        oldest_due_seconds=Administration(store).oldest_due_seconds(),
        last_deliveries=Activities(store).last_deliveries(),
        groups=tuple(Groups(store).list(MOST_GROUPS, seconds=limits.SECONDS)),
    )
