"""The overview: what is wrong, the last day, the open error groups, and what runs."""

from __future__ import annotations

import time
from dataclasses import dataclass

from flask import Blueprint, render_template

from app.inbox import Note
from app.inbox.activity import WorkerThreads
from app.inbox.filters import EventFilter
from app.inbox.groups import Group
from app.inbox.models import Count
from app.inbox.overview import Extent
from app.services import services
from app.states import State
from app.web.ops import problems, results, timeline
from app.web.ops.timeline import Chart

#: The error groups that are shown, and the ones that are read: the others have no open event.
SHOWN_GROUPS, READ_GROUPS = 5, 20

blueprint = Blueprint("overview", __name__)


@dataclass(frozen=True, slots=True)
class Facts:
    """What the overview shows. Times are in seconds since the epoch.

    ``oldest_due``: the seconds that the oldest due event has waited. ``deliveries``: the time of
    the last delivery under each signing secret, by its position. ``threads`` are the worker threads
    of all processes.
    """

    dead: Count
    pending: Count
    running: Count
    oldest_due: float
    paused: Note | None
    paused_types: dict[str, Note]
    groups: list[Group]
    deliveries: dict[str, float]
    threads: WorkerThreads
    extent: Extent
    chart: Chart


@blueprint.get("", strict_slashes=False)
def show() -> str:
    """Show the overview."""
    facts = read_facts(time.time())
    return render_template(
        "ops/overview.html",
        did=results.of_request(),
        facts=facts,
        is_queue=services().settings.is_queue,
        kinds=timeline.KINDS,
        problems=problems.of(facts),
        svg=timeline,
    )


def read_facts(now: float) -> Facts:
    """Read everything from the inbox. Raises ``InboxUnavailable``."""
    inbox = services().inbox
    administration = inbox.administration
    begin = timeline.begin(now)
    groups = inbox.groups.list(READ_GROUPS)
    return Facts(
        dead=administration.count(EventFilter(State.DEAD)),
        pending=administration.count(EventFilter(State.PENDING)),
        running=administration.count(EventFilter(State.RUNNING)),
        oldest_due=administration.oldest_due_seconds(),
        paused=administration.paused(),
        paused_types=administration.paused_types(),
        groups=[each for each in groups if each.open.number][:SHOWN_GROUPS],
        deliveries=inbox.activity.last_deliveries(),
        threads=inbox.activity.threads(),
        extent=inbox.overview.extent(),
        chart=timeline.chart(inbox.activity.since(begin), inbox.overview.open_by_hour(begin), now),
    )
