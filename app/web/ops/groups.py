"""The error groups, and the page of one group."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from flask import Blueprint, Response, make_response, render_template, request
from werkzeug.exceptions import NotFound

from app.inbox.filters import EventFilter, read_time
from app.services import services
from app.states import State
from app.text import printable
from app.web.ops import bars, results

#: Groups on the page.
MOST = 100

#: Hours in the chart of one group.
HOURS = 48

#: Open events of the group on its page. The list has all of them.
EVENTS = 10

#: The latest releases for which the page searches events that failed before.
SEARCHED_RELEASES = 2

#: The choices of the list: the time of the latest failure, as in the address.
PERIODS = {"": "All", "24h": "Last 24 h", "7d": "Last 7 days"}

blueprint = Blueprint("groups", __name__)


@blueprint.get("/groups")
def show_all() -> Response:
    """Show the groups, the one that failed last first."""
    chosen = request.args.get("since", "")
    chosen = chosen if chosen in PERIODS else ""
    since = read_time(chosen) if chosen else None
    groups = services().inbox.groups.list(MOST, since=since)
    html = render_template(
        "ops/groups.html",
        groups=groups,
        releases=services().inbox.groups.releases(each.fingerprint for each in groups),
        periods=PERIODS,
        chosen=chosen,
        is_cut=len(groups) == MOST,
    )
    return make_response(html)


@blueprint.get("/groups/<path:fingerprint>")
def show(fingerprint: str) -> Response:
    """Show one group. 404 with a sentence if there is none."""
    inbox = services().inbox
    group = inbox.groups.find(fingerprint)
    if group is None:
        raise NotFound(f"There is no error group {printable(fingerprint[:255])}.")
    releases = inbox.groups.releases([fingerprint])[fingerprint]
    own_release = services().settings.release
    begun = {own_release, *(each.release for each in releases[:SEARCHED_RELEASES])} - {None, ""}
    now_hour = int(time.time() // 3600)
    found = inbox.groups.hours(fingerprint, (now_hour - HOURS + 1) * 3600.0)
    values: dict[str, Any] = {
        "group": group,
        "chart": bars.by_hour(
            [(each.hour, each.release, each.attempts) for each in found], now_hour, HOURS
        ),
        "hours": HOURS,
        "hour_name": bars.hour_name,
        "releases": releases,
        "own_release": own_release,
        "can_give_up": _has_events(EventFilter(State.PENDING, group=fingerprint)),
        "has_failed_before": {
            each
            for each in begun
            if _has_events(EventFilter(group=fingerprint, failed_before=each))
        },
        "page": inbox.administration.page(EventFilter(group=fingerprint), limit=EVENTS),
        "count": inbox.administration.count(EventFilter(group=fingerprint)),
        "queue": services().settings.is_queue,
        "did": results.of_request(),
    }
    return make_response(render_template("ops/group.html", **values))


def _has_events(matching: EventFilter) -> bool:
    """Return whether an action would take events. True if the search was stopped."""
    matching = replace(matching, livemode=services().settings.livemode)
    page = services().inbox.administration.page(matching, limit=1)
    return bool(page.events) or page.is_partial
