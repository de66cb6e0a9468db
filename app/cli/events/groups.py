"""``flask events groups``: failed attempts by error group, and one group in detail."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from flask.cli import with_appcontext

from app.cli.events.filters import MAX_LIMIT, since_option
from app.cli.hints import hint
from app.cli.inbox_errors import explained
from app.cli.output import few, iso_time, json_option, plural, say, say_json, say_table, shortened
from app.inbox.groups import HOUR
from app.services import services
from app.text import printable

if TYPE_CHECKING:
    from app.inbox.groups import Group, GroupHour, GroupRelease

HEADINGS = (
    *("group", "exception", "place", "open events", "attempts"),
    *("first", "last", "releases", "example"),
)
#: Releases of a group in the list. JSON has all of them.
MOST_RELEASES = 3
#: Hours in the detail of a group. JSON has all of them.
MOST_HOURS = 24
#: Characters of an exception in the list.
NAME_LENGTH = 40

UNKNOWN = "unknown"


@click.command("groups")
@click.argument("fingerprint", metavar="[GROUP]", required=False)
@since_option("Only groups that failed since then: 30m, 24h, 3d, or a time (UTC).")
@click.option(
    "--limit",
    default=50,
    show_default=True,
    type=click.IntRange(min=1, max=MAX_LIMIT),
    help="The most groups.",
)
@json_option
@with_appcontext
def groups(fingerprint: str | None, since: float | None, limit: int, *, as_json: bool) -> None:
    """List the error groups, the latest failure first, or show one GROUP.

    A group has the failed attempts with one exception at one place in your code. An event is open
    in the group of its latest failure while it is pending or dead.
    """
    if fingerprint is None:
        _list(since, limit, as_json=as_json)
    else:
        _show(fingerprint, since or 0.0, as_json=as_json)


def _list(since: float | None, limit: int, *, as_json: bool) -> None:
    with explained():
        found = services().inbox.groups.list(limit, since=since)
        releases = services().inbox.groups.releases(each.fingerprint for each in found)
    if as_json:
        rows = [(_as_object(each), releases[each.fingerprint]) for each in found]
        say_json([{**group, "releases": _releases_as_objects(own)} for group, own in rows])
        return
    if not found:
        say("No attempt has failed." if since is None else "No attempt has failed since then.")
        return
    cells = [_cells(each, releases[each.fingerprint]) for each in found]
    say_table(cells, headings=HEADINGS)
    if len(found) == limit:
        say(f"There may be more than {'this one' if limit == 1 else f'these {limit}'} (--limit).")
    say(f"Show one with {hint('events', 'groups', 'GROUP')}.")


def _show(fingerprint: str, since: float, *, as_json: bool) -> None:
    inbox_groups = services().inbox.groups
    with explained():
        group = inbox_groups.find(fingerprint)
        if group is None:
            raise click.ClickException(f"There is no error group {printable(fingerprint)}.")
        releases = inbox_groups.releases([fingerprint])[fingerprint]
        hours = inbox_groups.hours(fingerprint, since)
    if as_json:
        say_json({**_as_object(group), **_history_as_object(releases, hours)})
        return
    _say_facts(group)
    _say_releases(releases)
    _say_hours(hours)
    say()
    say(f"The event that failed last: {hint('events', 'show', group.event_id)}")
    if group.open.number:
        say(f"Its open events: {hint('events', 'list', '--group', fingerprint)}")
        say(f"Run them again: {hint('events', 'retry', '--group', fingerprint)}")


def _say_facts(group: Group) -> None:
    facts = {
        "group": group.fingerprint,
        "exception": group.exception or UNKNOWN,
        "place": group.place or UNKNOWN,
        "open events": str(group.open),
        "attempts": f"{group.attempts:,}",
        "first": iso_time(group.first_at),
        "last": iso_time(group.last_at),
        "last type": group.type,
    }
    say_table(list(facts.items()))


def _say_releases(releases: list[GroupRelease]) -> None:
    rows = [
        (each.release or UNKNOWN, str(each.attempts), _hour(each.first_hour), _hour(each.last_hour))
        for each in releases
    ]
    say()
    say_table(rows, headings=("release", "attempts", "first hour", "last hour"))


def _say_hours(hours: list[GroupHour]) -> None:
    """Print the latest hours with failures, the last one at the end."""
    numbers: dict[int, int] = {}
    for each in hours:
        numbers[each.hour] = numbers.get(each.hour, 0) + each.attempts
    shown = list(numbers.items())[-MOST_HOURS:]
    say()
    say_table([(_hour(hour), str(number)) for hour, number in shown], headings=("hour", "attempts"))
    if len(shown) < len(numbers):
        left_out = plural(len(numbers) - MOST_HOURS, "earlier hour")
        say(f"Left out: {left_out} (--json).")


def _cells(group: Group, releases: list[GroupRelease]) -> tuple[str, ...]:
    return (
        group.fingerprint,
        shortened(group.exception or UNKNOWN, NAME_LENGTH),
        group.place or UNKNOWN,
        str(group.open),
        f"{group.attempts:,}",
        iso_time(group.first_at, "seconds"),
        iso_time(group.last_at, "seconds"),
        few([each.release or UNKNOWN for each in releases], MOST_RELEASES) or UNKNOWN,
        group.event_id,
    )


def _as_object(group: Group) -> dict[str, Any]:
    return {
        "group": group.fingerprint,
        "exception": group.exception,
        "place": group.place,
        "open": group.open.number,
        "open_is_bounded": group.open.is_bounded,
        "attempts": group.attempts,
        "first_at": iso_time(group.first_at),
        "last_at": iso_time(group.last_at),
        "last_type": group.type,
        "last_event": group.event_id,
        "last_release": group.release,
    }


def _history_as_object(releases: list[GroupRelease], hours: list[GroupHour]) -> dict[str, Any]:
    return {
        "releases": _releases_as_objects(releases),
        "hours": [
            {"hour": _hour(each.hour), "release": each.release or None, "attempts": each.attempts}
            for each in hours
        ],
    }


def _releases_as_objects(releases: list[GroupRelease]) -> list[dict[str, Any]]:
    return [
        {
            "release": each.release or None,
            "attempts": each.attempts,
            "first_hour": _hour(each.first_hour),
            "last_hour": _hour(each.last_hour),
        }
        for each in releases
    ]


def _hour(hour: int) -> str:
    return iso_time(hour * HOUR, "minutes")
