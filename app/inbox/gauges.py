"""The inbox for the gauges of ``/metrics``: bounded queries, whatever the size of the inbox."""

from __future__ import annotations

from dataclasses import dataclass, field

from app.inbox.activity import Activities
from app.inbox.administration import Administration
from app.inbox.engine import limits
from app.inbox.findings import DESTINATION, WatchFindings
from app.inbox.groups import Group, Groups
from app.inbox.sql import alerts as alert_statements
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
    failed last. ``destinations``: whether each event destination is enabled, by its id.
    ``alerts``: the numbers of raised alerts by name.
    """

    events: dict[str, int]
    oldest_due_seconds: float
    last_deliveries: dict[str, float]
    groups: tuple[Group, ...] = ()
    destinations: dict[str, bool] = field(default_factory=dict)
    alerts: dict[str, int] = field(default_factory=dict)


def read_gauges(store: Store) -> Gauges:
    """Return the state of the inbox. Raises ``InboxUnavailable`` within a few seconds."""
    findings = WatchFindings(store).list(seconds=limits.SECONDS)
    raised = store.read(alert_statements.RAISED, seconds=limits.SECONDS)
    (numbers,) = store.read(statements.NUMBERS, seconds=limits.SECONDS)
    return Gauges(
        events=dict(zip(map(str, statements.STATES), numbers, strict=True)),
        oldest_due_seconds=Administration(store).oldest_due_seconds(),
        last_deliveries=Activities(store).last_deliveries(),
        groups=tuple(Groups(store).list(MOST_GROUPS, seconds=limits.SECONDS)),
        destinations={
            each.name.removeprefix(DESTINATION): each.details.get("status") == "enabled"
            for each in findings
            if each.name.startswith(DESTINATION)
        },
        alerts={each.alert: each.number for each in raised},
    )
