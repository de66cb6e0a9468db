"""``flask events retry``: have events run again, with a count, a cap and a record of it."""

from __future__ import annotations

import getpass
import socket
from typing import TYPE_CHECKING, TypedDict, Unpack

import click
from flask.cli import with_appcontext

from app.cli.events.filters import MOST, explained, wanted_options
from app.cli.output import say
from app.cli.running import begin_running
from app.errors import CallbackFailed, DeliveryError, InboxUnavailable
from app.inbox.sql.filters import EventFilter
from app.services import services
from app.text import printable

if TYPE_CHECKING:
    from app.inbox import Event
    from app.services import Services

SUCCESS = "handled"


class Options(TypedDict):
    """What ``retry`` is asked to do, beside which events."""

    limit: int
    why: str | None
    again: bool
    dry_run: bool
    yes: bool


def operator() -> str:
    """Return who runs this command, for the record."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as containers have
        user = "somebody"
    return f"{user}@{socket.gethostname()}"


@click.command("retry")
@click.argument("event_ids", metavar="[ID]...", nargs=-1)
@wanted_options
@click.option("--limit", default=100, show_default=True, type=click.IntRange(min=1, max=MOST))
@click.option("--why", metavar="TEXT", help="The reason, for the record.")
@click.option("--again", is_flag=True, help="Run events again that have succeeded.")
@click.option("--dry-run", is_flag=True, help="Only say what would be run.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@with_appcontext
def retry(event_ids: tuple[str, ...], wanted: EventFilter, **options: Unpack[Options]) -> None:
    """Have events run again: by their IDs, or all that the options select, the oldest first.

    In queue mode the workers run them, in inline mode this command does. Without a state, events
    that are pending or dead are selected. Who ran it and why is kept with each event.
    """
    parts = services()
    with explained():
        if not (parts.settings.is_queue or options["dry_run"]):
            begin_running(parts)
        events = _chosen(parts, event_ids, wanted, options)
        refused = [(each, reason) for each in events if (reason := _refusal(parts, each, options))]
    for event, reason in refused:
        say(f"{event.id}: {reason}", err=True)
    fit = [event for event in events if event not in [each for each, _ in refused]]
    if event_ids and refused:
        raise click.ClickException("Nothing was run.")
    if not fit:
        say("There is nothing to run again.")
        return
    if options["dry_run"]:
        for event in fit:
            say(f"{event.id}  {event.type}  {event.state}")
        return
    if not options["yes"]:
        click.confirm(f"Run {_events(len(fit))} again?", abort=True)
    with explained():
        _run_all(parts, fit, options)


def _chosen(
    parts: Services, event_ids: tuple[str, ...], wanted: EventFilter, options: Options
) -> list[Event]:
    """Return the events that are meant, the oldest first, and say how many there are."""
    if event_ids and wanted != EventFilter():
        raise click.UsageError("Give either IDs or options that select events, not both.")
    if event_ids:
        return _named(parts, event_ids)
    if wanted == EventFilter():
        raise click.UsageError("Say which: IDs, or one of --state, --type, --context, --since.")
    # What a dead process left behind, nobody else runs in inline mode.
    left = [] if parts.settings.is_queue else ["running"]
    states = [wanted.state] if wanted.state else ["pending", "dead", *left]
    selections = [EventFilter(state, wanted.type, wanted.context, wanted.since) for state in states]
    count = sum(parts.inbox.administration.count(each) for each in selections)
    found = [
        event
        for each in selections
        for event in parts.inbox.administration.select(each, options["limit"], oldest_first=True)
    ]
    events = sorted(found, key=lambda event: (event.received_at, event.id))[: options["limit"]]
    capped = f"; the {len(events)} oldest are taken (--limit)" if len(events) < count else ""
    say(f"{_events(count)} selected{capped}.")
    return events


def _events(count: int) -> str:
    return "1 event" if count == 1 else f"{count} events"


def _named(parts: Services, event_ids: tuple[str, ...]) -> list[Event]:
    found = {event_id: parts.inbox.administration.find(event_id) for event_id in event_ids}
    missing = [event_id for event_id, event in found.items() if event is None]
    if missing:
        raise click.ClickException(f"The inbox has no event {printable(', '.join(missing))}.")
    events = [event for event in found.values() if event is not None]
    return sorted(events, key=lambda event: (event.received_at, event.id))


def _refusal(parts: Services, event: Event, options: Options) -> str | None:
    """Say why this event cannot be run again, or nothing."""
    if event.livemode != parts.settings.livemode:
        mode = "live" if event.livemode else "test"
        return f"is a {mode} event, and STRIPE_API_KEY is of the other mode"
    if event.state == "done" and event.outcome == SUCCESS and not options["again"]:
        return "has succeeded; to run it a second time say --again"
    if event.state == "running":
        if not event.is_orphan:
            return "runs now"
        if parts.settings.is_queue:
            return "is an orphan: a worker takes it by itself"
    return None


def _run_all(parts: Services, events: list[Event], options: Options) -> None:
    run = _reopen if parts.settings.is_queue else _run
    failed = 0
    for event in events:
        again = event.state == "done"
        noted = parts.inbox.administration.note_retry(
            event.id, by=operator(), why=options["why"], again=again
        )
        outcome = run(parts, event, again=again) if noted else "not run: it has changed meanwhile"
        failed += outcome not in {SUCCESS, "due now"}
        say(f"{event.id}  {event.type}  {outcome}")
    if failed:
        raise click.ClickException(f"{failed} of {len(events)} did not succeed.")


def _reopen(parts: Services, event: Event, *, again: bool) -> str:
    taken = parts.inbox.administration.reopen(event.id, again=again)
    return "due now" if taken else "not run: it has changed meanwhile"


def _run(parts: Services, event: Event, *, again: bool) -> str:
    claim = parts.inbox.claims.claim_one(event.id, again=again)
    if claim is None:
        return "not run: it has changed meanwhile"
    try:
        return parts.runner.run(claim)
    except CallbackFailed:
        return f"failed: see flask events show {event.id}"
    except (DeliveryError, InboxUnavailable) as error:
        return f"{error.outcome}: {error.message}"
