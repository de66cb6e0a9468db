"""``flask events retry``: run events again, up to a limit, with a record of the operator."""

from __future__ import annotations

from contextlib import contextmanager
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
from app.cli.events.pause_sentences import paused_sentences
from app.cli.execution import begin_execution
from app.cli.hints import hint
from app.cli.inbox_errors import explained
from app.cli.operator import operator
from app.cli.output import (
    confirm,
    counted,
    mode,
    plural,
    progress,
    say,
    say_beside_progress,
    say_table,
)
from app.errors import CallbackFailed, DeliveryError
from app.inbox.filters import EventFilter, to_query
from app.inbox.models import Count
from app.operations.retrying import Refusal, ResultDelayed, Retrier, Rules
from app.services import services
from app.states import SUCCESSES, Outcome, State

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from app.inbox import Event, Inbox, Note
    from app.inbox.models import EventRow
    from app.services import Services

    Selected = Event | EventRow

REFUSALS = {
    Refusal.ERASED: "was erased, and cannot run",
    Refusal.OTHER_MODE: "is a {mode} event, and STRIPE_API_KEY is of the other mode",
    Refusal.SUCCEEDED: "has succeeded; to run it a second time add --again",
    Refusal.SUPERSEDED: "was superseded by a newer event; to run it too add --again",
    Refusal.TWIN: "was not run, because its twin succeeded; to check that once more add --again",
    Refusal.SHADOW: "ran as a shadow; to run it once more add --again",
    Refusal.NO_MODULE: "has no handler module yet; to run the fallback once more add --again",
    Refusal.RUNNING: "is running; if it never ends, restart its process (see claimed_by in `show`)",
    Refusal.RESCUED_SOON: "is an orphan: a worker rescues it",
}

CHANGED = "not run: it has changed since you were asked"
DUE, PAUSED = "due now", "due, but paused"


class Options(TypedDict):
    """The options of ``retry`` that do not select events."""

    limit: int
    why: str | None
    again: bool
    dry_run: bool
    yes: bool


@click.command("retry")
@click.argument("event_ids", metavar="[ID]...", nargs=-1)
@filter_options
@limit_option(default=100)
@click.option("--why", metavar="TEXT", help="The reason, for the record.")
@click.option("--again", is_flag=True, help="Run events again that have succeeded.")
@click.option("--dry-run", is_flag=True, help="Show the events, and run none.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@with_appcontext
def retry(event_ids: tuple[str, ...], wanted: EventFilter, **options: Unpack[Options]) -> None:
    """Run events again: by their IDs, or those that the options select, the oldest first.

    In queue mode the workers run them, in inline mode this command does. Without --state and
    --outcome, pending and dead events are selected. With --outcome fallback, those are selected
    that a handler module takes now. Only events of the mode of STRIPE_API_KEY are selected. Each
    event keeps a record of the operator and the reason.
    """
    _retry(services(), event_ids, wanted, options)


def _retry(
    services: Services, event_ids: tuple[str, ...], wanted: EventFilter, options: Options
) -> None:
    with explained():
        if not (services.settings.is_queue or options["dry_run"]):
            begin_execution(services)
        events = _selected(services, event_ids, wanted, options)
        reasons = {each.id: _refusal(services, each, options) for each in events}
    for event_id, reason in reasons.items():
        if reason:
            say(f"{event_id}: {reason}", err=True)
    accepted = [each for each in events if not reasons[each.id]]
    if event_ids and len(accepted) < len(events):
        raise click.ClickException("No event was run.")
    if not accepted:
        say("There is no event to run again.")
        return
    if options["dry_run"]:
        rows = [(each.id, each.type, each.state, each.reason or "-") for each in accepted]
        say_table(rows, headings=("event id", "type", "state", "reason"))
        return
    if not options["yes"]:
        confirm(f"Run {plural(len(accepted), 'event')} again?")
    with explained(), _audited(services.inbox, event_ids, wanted, options["why"]) as done:
        _run_all(services, accepted, options, done)


def _selected(
    services: Services, event_ids: tuple[str, ...], wanted: EventFilter, options: Options
) -> list[Selected]:
    """Return the selected events, the oldest first, and print their number."""
    require_selection(event_ids, wanted)
    if event_ids:
        return _oldest_first(find_all(services.inbox, event_ids))
    require_known(services.inbox, wanted)
    administration = services.inbox.administration
    selections = _selections(services, wanted, again=options["again"])
    count = sum((administration.count(each) for each in selections), Count(0))
    found: list[Selected] = [
        event
        for each in selections
        for event in islice(administration.walk(each), options["limit"])
    ]
    events = _oldest_first(found)[: options["limit"]]
    oldest = "one" if len(events) == 1 else len(events)
    is_capped = count.is_bounded or len(events) < count.number
    capped = f"; the oldest {oldest} will be run (--limit)" if is_capped else ""
    say(f"{counted(count, 'event')} selected{capped}.")
    return events


def _selections(services: Services, wanted: EventFilter, *, again: bool) -> list[EventFilter]:
    """Return the filters that together select the events of ``wanted``, of the key's mode."""
    # Events of the other mode cannot be run. They would use up the limit.
    wanted = replace(wanted, livemode=services.settings.livemode)
    if wanted.outcome == Outcome.FALLBACK and not (wanted.type or again):
        # Only those that a handler module takes now. The others would use up the limit.
        return [replace(wanted, type=each) for each in sorted(services.registry.handled_types)]
    if wanted.state or wanted.outcome:
        return [wanted]
    # In inline mode no worker rescues an orphan: it is selected here, as a running event.
    running = [] if services.settings.is_queue else [State.RUNNING.value]
    states = [State.PENDING.value, State.DEAD.value, *running]
    return [replace(wanted, state=each) for each in states]


def _oldest_first(events: Sequence[Selected]) -> list[Selected]:
    return sorted(events, key=lambda event: (event.received_at, event.id))


def _refusal(services: Services, event: Selected, options: Options) -> str | None:
    """Return the reason why this event cannot be run again, or None."""
    settings = services.settings
    rules = Rules(settings.livemode, settings.is_queue, lambda: services.registry.handled_types)
    refusal = rules.refusal(event, again=options["again"])
    return REFUSALS[refusal].format(mode=mode(live=event.livemode)) if refusal else None


@contextmanager
def _audited(
    inbox: Inbox, event_ids: tuple[str, ...], wanted: EventFilter, why: str | None
) -> Iterator[list[str]]:
    """Write an entry of the audit log for each ID, or one for all.

    The block adds the ids of the events that it ran to the list.
    """
    action = "retry" if event_ids else "retry_many"
    targets = event_ids or (to_query(wanted),)
    entries = {each: inbox.audit.record(operator(), action, each, why) for each in targets}
    done: list[str] = []
    try:
        yield done
    finally:
        for target, entry_id in entries.items():
            inbox.audit.complete(entry_id, done.count(target) if event_ids else len(done))


def _run_all(services: Services, events: list[Selected], options: Options, done: list[str]) -> None:
    retrier = Retrier(services.inbox, services.runner, is_queue=services.settings.is_queue)
    pauses = _pauses(services)
    failed = 0
    for event in progress(events, len(events), "Running"):
        outcome = _run(retrier, event, options)
        done += [event.id] if outcome != CHANGED else []
        failed += outcome not in {*SUCCESSES, DUE}
        if outcome == DUE and {None, event.type} & pauses.keys():
            outcome = PAUSED
        say_beside_progress(f"{event.id}  {event.type}  {outcome}")
    for paused_type in sorted({None, *(each.type for each in events)} & pauses.keys(), key=str):
        say(paused_sentences(pauses[paused_type], paused_type, is_queue=True))
    if failed:
        raise click.ClickException(f"{failed} of {plural(len(events), 'event')} did not succeed.")


def _pauses(services: Services) -> dict[str | None, Note]:
    """Return the pauses by type, None for that of all workers. Inline mode has none."""
    if not services.settings.is_queue:
        return {}
    paused = services.inbox.administration.paused()
    types = services.inbox.administration.paused_types()
    pauses: list[tuple[str | None, Note | None]] = [(None, paused), *types.items()]
    return {name: note for name, note in pauses if note}


def _run(retrier: Retrier, event: Selected, options: Options) -> str:
    """Run the event again, and return the outcome in words."""
    try:
        # The inbox decides by the event as it is now: the question may have been open for hours.
        outcome = retrier.retry(event, by=operator(), why=options["why"], again=options["again"])
    except CallbackFailed:
        return f"failed: run {hint('events', 'show', event.id)} for the traceback"
    except (DeliveryError, ResultDelayed) as error:
        return f"{error.outcome}: {error.message}"
    if outcome is None:
        return CHANGED
    return DUE if outcome is Outcome.ACCEPTED else outcome
