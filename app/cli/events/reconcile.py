"""``flask events reconcile``: bring back the events that Stripe could not deliver."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import click
from flask.cli import with_appcontext

from app.cli import stripe_errors
from app.cli.events.filters import explained, read_since
from app.cli.events.list_show import when
from app.cli.output import say, say_json
from app.cli.running import begin_running
from app.reconcile.gap import Gap, report
from app.reconcile.listing import ListedEvent
from app.reconcile.reconciler import Reconciler
from app.services import services

if TYPE_CHECKING:
    pass

#: Missing events that are shown one by one. With ``--json`` it is all of them.
SHOWN = 20

#: What a run has to end with for the exit code 0. The others need a person, or another run.
SETTLED = "handled"

ACCOUNT = re.compile(r"acct_\w+(/acct_\w+)*")


class Options(TypedDict):
    """What ``reconcile`` is asked to do, beside which part of the list."""

    yes: bool
    dry_run: bool
    as_json: bool


def read_accounts(
    _context: click.Context, _parameter: click.Parameter, value: tuple[str, ...]
) -> tuple[str, ...]:
    """Refuse what is no account before anything is asked."""
    for account in value:
        if not ACCOUNT.fullmatch(account):
            raise click.BadParameter(f"{account!r} is no account like acct_1 or acct_1/acct_2")
    return value


@click.command("reconcile")
@click.option(
    "--since",
    callback=read_since,
    metavar="WHEN",
    help="From then on: 24h, 30d, or a time (UTC). [default: where the last one ended, at first"
    " 24h]",
)
@click.option(
    "--account",
    "accounts",
    multiple=True,
    callback=read_accounts,
    metavar="ACCT",
    help="A connected account, beside the account of the key. May be given several times.",
)
@click.option("--yes", is_flag=True, help="Do not ask: for a cron job.")
@click.option("--dry-run", is_flag=True, help="Only say what is missing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for other programs.")
@with_appcontext
def reconcile(since: float | None, accounts: tuple[str, ...], **options: Unpack[Options]) -> None:
    """Bring back the events that Stripe has and the inbox lacks.

    Stripe's list of the events of the handled types is compared with the inbox. What is missing is
    recorded as if it had been delivered, and run: in inline mode by this command, in queue mode by
    the workers. It can be called as often as you like, and be ended at any moment.
    """
    if options["as_json"] and not (options["yes"] or options["dry_run"]):
        raise click.UsageError("--json asks nothing: give --yes or --dry-run with it.")
    reconciler = services().reconciler
    if not reconciler.types:
        raise click.ClickException(
            "There is no handler module but the fallback, so no event type to look for."
        )
    say = _Json() if options["as_json"] else _Text()
    with explained(), stripe_errors.explained():
        if not (services().settings.is_queue or options["dry_run"]):
            begin_running(services())
        gap = reconciler.find(accounts, since)
        left = reconciler.unfinished_ids()
    say.gap(gap, left)
    if not options["dry_run"]:
        _close(reconciler, gap, left, say, options)
    say.end()
    _fail(gap, say)


def _close(
    reconciler: Reconciler, gap: Gap, left: list[str], say: _Text | _Json, options: Options
) -> None:
    """Record what is missing and run what is open, if that is wanted."""
    count = len(gap.missing) + len(left)
    is_queue = services().settings.is_queue
    if count and not options["yes"]:
        what = "Record them for the workers?" if is_queue else f"Record and run {_events(count)}?"
        click.confirm(what, abort=True)
    with explained():
        recorded = reconciler.record(gap)
        report(gap, recorded)
        say.recorded(recorded)
        for claim, outcome in reconciler.run_unfinished():
            say.ran(claim.event_id, claim.type, outcome)


def _fail(gap: Gap, say: _Text | _Json) -> None:
    """End with the status that tells a script what happened."""
    if gap.failed:
        sentences = {
            f"{context or 'the account of the key'}: {stripe_errors.sentence(error)}"
            for context, error in gap.failed.items()
        }
        raise stripe_errors.StripeFailedError("; ".join(sorted(sentences)))
    if say.failed:
        raise click.ClickException(
            f"{_events(say.failed)} did not succeed. See why with: flask events show ID. What is"
            " pending is run again at the next call, and when Stripe delivers it."
        )


class _Text:
    """Says what happens to a person."""

    def __init__(self) -> None:
        self.failed = 0

    def gap(self, gap: Gap, left: list[str]) -> None:
        """Say what was read and what is missing."""
        for warning in _warnings(gap):
            say(f"Warning: {warning}", err=True)
        if gap.windows:
            begin, end = min(each.begin for each in gap.windows), gap.windows[0].end
            types = len({type_ for each in gap.windows for type_ in each.types})
            say(
                f"Stripe lists {_events(gap.listed)} of {_count(types, 'handled type')} from"
                f" {when(begin)[:19]} to {when(end)[:19]} (UTC), for {_accounts(gap)}."
            )
        say(f"The inbox lacks {len(gap.missing)} of them:" if gap.missing else "None is missing.")
        for each in gap.missing[:SHOWN]:
            about = (each.created, each.event.id, each.event.type, each.event.context or "-")
            say("  ".join(about))
        if len(gap.missing) > SHOWN:
            say(f"and {len(gap.missing) - SHOWN} more (--json shows all)")
        if left:
            say(f"Of those brought back before, {_events(len(left))} did not succeed yet.")

    def recorded(self, count: int) -> None:
        """Say how many were recorded."""
        if count:
            say(f"Recorded {_events(count)}.")

    def ran(self, event_id: str, event_type: str, outcome: str) -> None:
        """Say what became of one event."""
        self.failed += outcome != SETTLED
        say(f"{event_id}  {event_type}  {outcome}")

    def end(self) -> None:
        """Say nothing more."""


class _Json:
    """Says what happens to a program, all at the end."""

    def __init__(self) -> None:
        self.failed = 0
        self._document: dict[str, Any] = {"recorded": 0, "ran": []}

    def gap(self, gap: Gap, left: list[str]) -> None:
        """Note what was read and what is missing."""
        self._document = {
            "windows": [
                {
                    "context": each.context or None,
                    "types": list(each.types),
                    "from": when(each.begin),
                    "to": when(each.end),
                }
                for each in gap.windows
            ],
            "warnings": _warnings(gap),
            "failed": [
                {"context": context or None, "error": stripe_errors.sentence(error)}
                for context, error in gap.failed.items()
            ],
            "listed": gap.listed,
            "missing": [_row(each) for each in gap.missing],
            "left": left,
            **self._document,
        }

    def recorded(self, count: int) -> None:
        """Note how many were recorded."""
        self._document["recorded"] = count

    def ran(self, event_id: str, event_type: str, outcome: str) -> None:
        """Note what became of one event."""
        self.failed += outcome != SETTLED
        self._document["ran"].append({"id": event_id, "type": event_type, "outcome": outcome})

    def end(self) -> None:
        """Print it."""
        say_json(self._document)


def _row(missing: ListedEvent) -> dict[str, Any]:
    event = missing.event
    return {
        "id": event.id,
        "type": event.type,
        "created": missing.created,
        "livemode": event.livemode,
        "context": event.context,
    }


def _warnings(gap: Gap) -> list[str]:
    """Say what no reconciliation can bring back any more."""
    late = {
        (each.context or "the account of the key", type_)
        for each in gap.windows
        for type_ in each.late
    }
    return [
        f"{type_} of {account} was last reconciled more than 30 days ago. Stripe lists nothing"
        " older: what was not delivered before that is lost, poll the objects instead."
        for account, type_ in sorted(late)
    ]


def _accounts(gap: Gap) -> str:
    contexts = dict.fromkeys(each.context for each in gap.windows)
    return ", ".join(context or "the account of the key" for context in contexts)


def _events(count: int) -> str:
    return _count(count, "event")


def _count(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
