"""``flask events give-up``: make pending events dead."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, TypedDict, Unpack

import click
from flask.cli import with_appcontext

from app.cli.events.filters import (
    filter_options,
    find_all,
    limit_option,
    require_known,
    require_selection,
)
from app.cli.inbox_errors import explained
from app.cli.operator import operator
from app.cli.output import confirm, counted, plural, say, say_table
from app.inbox.models import Count
from app.services import services
from app.states import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.inbox import Event
    from app.inbox.administration import Administration
    from app.inbox.filters import EventFilter
    from app.inbox.models import EventRow

#: Why an event of another state cannot be given up.
REFUSALS = {
    State.DONE: "has succeeded",
    State.DEAD: "is dead already",
    State.RUNNING: "is running; if it never ends, restart its process (see claimed_by in `show`)",
}


class Options(TypedDict):
    """The options of ``give-up`` that do not select events."""

    limit: int
    why: str
    dry_run: bool
    yes: bool


@click.command("give-up")
@click.argument("event_ids", metavar="[ID]...", nargs=-1)
@filter_options
@limit_option(default=100)
@click.option("--why", metavar="TEXT", required=True, help="The reason. The events keep it.")
@click.option("--dry-run", is_flag=True, help="Show the events, and change none.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@with_appcontext
def give_up(event_ids: tuple[str, ...], wanted: EventFilter, **options: Unpack[Options]) -> None:
    """Make pending events dead: by their IDs, or those that the options select, the oldest first.

    They have the outcome gave_up and the reason, and run only after `retry`. Only events of the
    mode of STRIPE_API_KEY are selected.
    """
    require_selection(event_ids, wanted)
    administration = services().inbox.administration
    if not event_ids:
        if wanted.state not in {None, State.PENDING}:
            raise click.UsageError("Only pending events can be given up.")
        wanted = replace(wanted, state=State.PENDING.value, livemode=services().settings.livemode)
    with explained():
        require_known(services().inbox, wanted)
        if event_ids:
            events: Sequence[Event | EventRow] = _by_id(event_ids)
            number = Count(len(events))
        else:
            events = list(islice(administration.walk(wanted), options["limit"]))
            number = administration.count(wanted)
    if _is_agreed(events, number, options):
        with explained():
            changed = _change(administration, event_ids, wanted, events, options)
        say(f"{plural(changed, 'event')} given up.")


def _by_id(event_ids: tuple[str, ...]) -> list[Event]:
    """Return the events. Raises ``ClickException`` unless all are pending."""
    events = find_all(services().inbox, event_ids)
    refused = [each for each in events if each.state != State.PENDING]
    for each in refused:
        say(f"{each.id}: {REFUSALS[State(each.state)]}", err=True)
    if refused:
        raise click.ClickException("No event was given up.")
    return events


def _is_agreed(events: Sequence[Event | EventRow], number: Count, options: Options) -> bool:
    """Print the number of events, and ask. False if there is nothing to do."""
    is_capped = number.is_bounded or len(events) < number.number
    capped = f"; the oldest {len(events)} will be given up (--limit)" if is_capped else ""
    say(f"{counted(number, 'event')} selected{capped}.")
    if options["dry_run"]:
        rows = [(each.id, each.type, each.reason or "-") for each in events]
        say_table(rows, headings=("event id", "type", "reason"))
    elif events and not options["yes"]:
        confirm(f"Give up on {plural(len(events), 'event')}?")
    return bool(events) and not options["dry_run"]


def _change(
    administration: Administration,
    event_ids: tuple[str, ...],
    wanted: EventFilter,
    events: Sequence[Event | EventRow],
    options: Options,
) -> int:
    """Give up on the events, and return how many were still pending."""
    by, why = operator(), options["why"]
    if not event_ids:
        return administration.give_up_many(wanted, by=by, why=why, limit=options["limit"])
    return sum(
        administration.give_up(each.id, by=by, why=why, seen_attempt=each.attempt)
        for each in events
    )
