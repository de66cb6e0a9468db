"""``flask events prune``: remove old events at once, as the service does by ``RETENTION_DAYS``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click
from flask.cli import with_appcontext

from app.cli.events.filters import read_interval, read_since
from app.cli.inbox_errors import explained
from app.cli.operator import operator
from app.cli.output import confirm, iso_time, plural, progress, say
from app.conversions import MIN_RETENTION_DAYS
from app.inbox.retention import DAY_SECONDS
from app.maintenance.retention import prune as remove
from app.services import services

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.inbox.retention import Retention


def read_age(context: click.Context, parameter: click.Parameter, value: str) -> float:
    """Return the days of an age like ``45d``. Refuses one within Stripe's redelivery."""
    days = (read_interval(context, parameter, value) or 0) / DAY_SECONDS
    if days < MIN_RETENTION_DAYS:
        raise click.BadParameter(
            f"{value!r} is under {MIN_RETENTION_DAYS} days. Stripe resends an event for 30 days,"
            " and one that was removed would run again"
        )
    read_since(context, parameter, value)  # refuses an age before the year 1
    return days


@click.command("prune")
@click.option(
    "--older-than",
    "days",
    required=True,
    callback=read_age,
    metavar="AGE",
    help="Remove done events that were received and settled longer ago: 45d. At least 31d.",
)
@click.option("--dry-run", is_flag=True, help="Show the number of events, and remove none.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@with_appcontext
def prune(days: float, *, dry_run: bool, yes: bool) -> None:
    """Remove done events that are older than an age, with their attempts.

    Pending, running and dead events stay. Deliveries go on beside it: it removes events in small
    steps, with pauses. You can interrupt it at any time.
    """
    retention = services().inbox.retention
    with explained():
        before = retention.days_ago(days)
        count = retention.count(before)
        say(f"{plural(count, 'event')} received and settled before {iso_time(before, 'seconds')}.")
        if dry_run or not count:
            return
        if not yes:
            confirm(f"Remove {plural(count, 'event')}?")
        _remove_all(before, count)


def _remove_all(before: float, count: int) -> None:
    inbox, removed = services().inbox, 0
    entry = inbox.audit.record(operator(), "prune", f"before={iso_time(before, 'seconds')}")
    try:
        for _ in progress(_removed(inbox.retention, before), count, "Removing"):
            removed += 1
    finally:
        inbox.audit.complete(entry, removed)
    say(f"Removed {plural(removed, 'event')}.")


def _removed(retention: Retention, before: float) -> Iterator[None]:
    """Remove the events. Yields once for each of them."""
    for number, _ in remove(retention, before, time.sleep):
        yield from (None for _ in range(number))
