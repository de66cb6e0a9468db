"""``flask events audit``: the actions of operators."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click
from flask.cli import with_appcontext

from app.cli.events.filters import limit_option
from app.cli.inbox_errors import explained
from app.cli.output import iso_time, json_option, say, say_json, say_table
from app.services import services

if TYPE_CHECKING:
    from app.inbox import AuditEntry

HEADINGS = ("at", "by", "action", "target", "events", "why")


@click.command("audit")
@click.option("--target", metavar="TARGET", help="Only actions on this event, type or destination.")
@click.option("--before", type=int, metavar="ID", help="Only entries before this one.")
@limit_option(default=50)
@json_option
@with_appcontext
def audit(target: str | None, before: int | None, limit: int, *, as_json: bool) -> None:
    """Show the actions of operators, the latest first: who did what, to how many events, and why.

    The number of events is missing if an action failed, or changes no events.
    """
    with explained():
        entries = services().inbox.administration.audit(limit, before, target)
    if as_json:
        say_json([{**asdict(each), "at": iso_time(each.at)} for each in entries])
        return
    if not entries:
        say("The audit log has no such entry.")
    say_table([_cells(each) for each in entries], headings=HEADINGS if entries else ())
    if len(entries) == limit:
        say(f"There may be more: continue with --before {entries[-1].id}")


def _cells(entry: AuditEntry) -> tuple[str, ...]:
    affected = "-" if entry.affected is None else str(entry.affected)
    what = (entry.action, entry.target or "-", affected, entry.why or "-")
    return (iso_time(entry.at, "seconds"), entry.by, *what)
