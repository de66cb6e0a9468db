"""``flask events reconcile``: backfill the events that Stripe could not deliver."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import click
from flask.cli import with_appcontext

from app.cli import stripe_errors
from app.cli.events.filters import accounts_option, since_option
from app.cli.execution import begin_execution
from app.cli.hints import hint
from app.cli.inbox_errors import explained
from app.cli.operator import operator
from app.cli.output import (
    confirm,
    iso_time,
    json_option,
    plural,
    progress,
    say,
    say_beside_progress,
    say_json,
    say_on_terminal,
    say_table,
)
from app.reconcile.gap import Gap, report
from app.reconcile.listing import ListedEvent
from app.reconcile.reconciler import Reconciler
from app.services import services
from app.states import SUCCESSES

if TYPE_CHECKING:
    from app.services import Services

#: Missing events in the output for a person. JSON has all of them.
SHOWN = 20

OWN_ACCOUNT = "the account of the key"


class Options(TypedDict):
    """The options of ``reconcile`` that do not select events."""

    yes: bool
    dry_run: bool
    as_json: bool


@click.command("reconcile")
@since_option(
    "Start there: 24h, 30d, or a time (UTC). [default: the end of the last run, the first time 24h]"
)
@accounts_option("A connected account, beside the account of the key.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation, as in a cron job.")
@click.option("--dry-run", is_flag=True, help="Show what is missing, and record nothing.")
@json_option
@with_appcontext
def reconcile(since: float | None, accounts: tuple[str, ...], **options: Unpack[Options]) -> None:
    """Backfill the events that Stripe has and the inbox does not.

    This compares Stripe's list of events of the handled types with the inbox. Missing events are
    recorded like deliveries and run: in inline mode by this command, in queue mode by the workers.
    You can call it at any time and interrupt it at any moment.
    """
    if options["as_json"] and not (options["yes"] or options["dry_run"]):
        raise click.UsageError("With --json, add --yes or --dry-run: there is no confirmation.")
    _reconcile(services(), since, accounts, options)


def _reconcile(
    services: Services, since: float | None, accounts: tuple[str, ...], options: Options
) -> None:
    reconciler = services.reconciler
    if not reconciler.types:
        raise click.ClickException(
            "No event type has a handler module, so there are no events to look for."
        )
    output = _Json() if options["as_json"] else _Text()
    with explained(), stripe_errors.explained():
        if not (services.settings.is_queue or options["dry_run"]):
            begin_execution(services)
        say_on_terminal("Reading Stripe's list of events ...")
        gap = reconciler.find(accounts, since)
        unfinished = reconciler.unfinished_ids()
    output.gap(gap, unfinished)
    if not options["dry_run"]:
        count = len(gap.missing) + len(unfinished)
        if count and not options["yes"]:
            _confirm(count, is_queue=services.settings.is_queue)
        _backfill(reconciler, gap, output)
    output.end()
    _exit_on_failure(gap, output.failed)


def _confirm(count: int, *, is_queue: bool) -> None:
    events = plural(count, "event")
    question = f"Record {events} for the workers?" if is_queue else f"Record and run {events}?"
    confirm(question)


def _backfill(reconciler: Reconciler, gap: Gap, output: _Text | _Json) -> None:
    """Record the missing events, and in inline mode run all backfilled events."""
    with explained():
        recorded = reconciler.record(gap)
        report(gap, recorded)
        if recorded:
            services().inbox.audit.record(operator(), "reconcile", affected=recorded)
        output.recorded(recorded)
        count = len(reconciler.unfinished_ids())
        for claim, outcome in progress(reconciler.run_unfinished(), count, "Running"):
            output.ran(claim.event_id, claim.type, outcome)


def _exit_on_failure(gap: Gap, failed: list[str]) -> None:
    """Exit with 3 if Stripe's API failed, and with 1 if an event did not succeed."""
    if gap.failed:
        sentences = {
            f"{context or OWN_ACCOUNT}: {stripe_errors.sentence(error)}"
            for context, error in gap.failed.items()
        }
        raise stripe_errors.StripeFailedError("; ".join(sorted(sentences)))
    if failed:
        more = " of the first" if len(failed) > 1 else ""
        raise click.ClickException(
            f"{plural(len(failed), 'event')} did not succeed. Run"
            f" {hint('events', 'show', failed[0])} for the reason{more}."
            " Pending events run again at the next call, and when Stripe delivers them."
        )


class _Text:
    """Output for a person, as the run proceeds."""

    def __init__(self) -> None:
        self.failed: list[str] = []

    def gap(self, gap: Gap, unfinished: list[str]) -> None:
        """Print the compared part of the list and the missing events."""
        for warning in _warnings(gap):
            say(f"Warning: {warning}", err=True)
        if gap.windows:
            begin, end = min(each.begin for each in gap.windows), gap.windows[0].end
            types = len({type_ for each in gap.windows for type_ in each.types})
            say(
                f"Stripe lists {plural(gap.listed, 'event')} of {plural(types, 'handled type')}"
                f" from {iso_time(begin, 'seconds')} to {iso_time(end, 'seconds')},"
                f" for {_accounts(gap)}."
            )
        if gap.missing:
            say(f"Missing in the inbox: {plural(len(gap.missing), 'event')}.")
            rows = [_cells(each) for each in gap.missing[:SHOWN]]
            say_table(rows, headings=("created", "event id", "type", "context"))
        else:
            say("None is missing.")
        if len(gap.missing) > SHOWN:
            say(f"and {len(gap.missing) - SHOWN} more (--json shows all)")
        if unfinished:
            events = plural(len(unfinished), "event")
            say(f"Backfilled before and not yet successful: {events}.")

    def recorded(self, count: int) -> None:
        """Print the number of recorded events."""
        if count:
            say(f"Recorded {plural(count, 'event')}.")

    def ran(self, event_id: str, event_type: str, outcome: str) -> None:
        """Print the outcome of one event."""
        self.failed += [event_id] * (outcome not in SUCCESSES)
        say_beside_progress(f"{event_id}  {event_type}  {outcome}")

    def end(self) -> None:
        """Print nothing more."""


class _Json:
    """Output for a program: one document at the end."""

    def __init__(self) -> None:
        self.failed: list[str] = []
        self._document: dict[str, Any] = {"recorded": 0, "ran": []}

    def gap(self, gap: Gap, unfinished: list[str]) -> None:
        """Add the compared part of the list and the missing events."""
        self._document = {
            "windows": [
                {
                    "context": each.context or None,
                    "types": list(each.types),
                    "from": iso_time(each.begin),
                    "to": iso_time(each.end),
                }
                for each in gap.windows
            ],
            "warnings": _warnings(gap),
            "failed": [
                {"context": context or None, "error": stripe_errors.sentence(error)}
                for context, error in gap.failed.items()
            ],
            "listed": gap.listed,
            "missing": [_as_object(each) for each in gap.missing],
            "left": unfinished,
            **self._document,
        }

    def recorded(self, count: int) -> None:
        """Add the number of recorded events."""
        self._document["recorded"] = count

    def ran(self, event_id: str, event_type: str, outcome: str) -> None:
        """Add the outcome of one event."""
        self.failed += [event_id] * (outcome not in SUCCESSES)
        self._document["ran"].append({"id": event_id, "type": event_type, "outcome": outcome})

    def end(self) -> None:
        """Print the document."""
        say_json(self._document)


def _as_object(missing: ListedEvent) -> dict[str, Any]:
    event = missing.event
    return {
        "id": event.id,
        "type": event.type,
        "created": missing.created,
        "livemode": event.livemode,
        "context": event.context,
    }


def _cells(missing: ListedEvent) -> tuple[str, ...]:
    event = missing.event
    return (missing.created, event.id, event.type, event.context or "-")


def _warnings(gap: Gap) -> list[str]:
    """Return a sentence for each type with events that are too old for a backfill."""
    late = {(each.context or OWN_ACCOUNT, type_) for each in gap.windows for type_ in each.late}
    return [
        f"{type_} of {account} was last reconciled more than 30 days ago. Stripe lists no older"
        " events: those that it did not deliver are lost. Fetch the objects instead."
        for account, type_ in sorted(late)
    ]


def _accounts(gap: Gap) -> str:
    contexts = dict.fromkeys(each.context for each in gap.windows)
    return ", ".join(context or OWN_ACCOUNT for context in contexts)
