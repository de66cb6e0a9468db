"""``flask events stats``: the numbers of waiting and dead events, and how long they have waited."""

from __future__ import annotations

import click
from flask.cli import with_appcontext

from app.cli.inbox_errors import explained
from app.cli.output import json_option, say_json, say_table
from app.inbox import Note
from app.inbox.models import BREAKER
from app.services import services


@click.command("stats")
@json_option
@with_appcontext
def stats(*, as_json: bool) -> None:
    """Show how many events wait or are dead, and how long the oldest ones have waited.

    An event waits while it is pending, or if its process died. It is due when its time has come.
    Counts stop at 10,000 and are then shown as 10,000+.
    """
    administration = services().inbox.administration
    with explained():
        report, oldest_due = administration.report(), administration.oldest_due_seconds()
        paused = administration.paused() is not None
        notes = administration.paused_types()
    numbers: dict[str, object] = {
        "waiting": report.waiting.number,
        "dead": report.dead.number,
        "oldest_waiting_seconds": round(report.oldest, 3),
        "oldest_due_seconds": round(oldest_due, 3),
        "paused": paused,
        "paused_types": sorted(notes),
    }
    if as_json:
        say_json(numbers | {"bounded": report.waiting.is_bounded or report.dead.is_bounded})
    else:
        numbers |= {"waiting": report.waiting, "dead": report.dead}
        types = [_paused(name, notes[name]) for name in sorted(notes)]
        numbers["paused_types"] = ", ".join(types) or "none"
        say_table([(name, str(value)) for name, value in numbers.items()])


def _paused(event_type: str, note: Note) -> str:
    return f"{event_type} (by its {BREAKER})" if note.by == BREAKER else event_type
