"""``flask events erase``: erase the content of all events about an object, on request."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

import click
from flask.cli import with_appcontext

from app.cli.hints import hint
from app.cli.inbox_errors import explained
from app.cli.operator import operator
from app.cli.output import confirm, iso_time, plural, progress, say, say_on_terminal, say_table
from app.services import services
from app.states import State

if TYPE_CHECKING:
    from app.inbox import Event

#: An id of Stripe's, and its prefix.
ID = re.compile(r"([a-z]+)_[A-Za-z0-9_]+", re.ASCII)
#: An id, an e-mail address, or another word.
OBJECT = re.compile(r"[A-Za-z0-9][\w.@+-]{5,254}", re.ASCII)

HEADINGS = ("received", "event id", "type", "state")


def read_object(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """Refuse a text that would be found in too many events."""
    if not OBJECT.fullmatch(value):
        raise click.BadParameter(f"{value!r} is no id like cus_9s6XKzkNRiz8i3")
    return value


@click.command("erase")
@click.option(
    "--object",
    "words",
    required=True,
    callback=read_object,
    metavar="ID",
    help="The object, such as cus_9s6XKzkNRiz8i3.",
)
@click.option("--why", required=True, metavar="TEXT", help="The reason, for the audit log.")
@click.option("--dry-run", is_flag=True, help="Show the events, and erase nothing.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@with_appcontext
def erase(words: str, why: str, *, dry_run: bool, yes: bool) -> None:
    """Erase the content of all events that name an object: a customer, for example.

    Bodies, related objects, reasons and tracebacks are erased, and the events never run again.
    Their ids, types, outcomes and times stay. Backups and exports keep the content.
    """
    if words in why:
        raise click.UsageError("The audit log would keep the id. Leave it out of --why.")
    with explained():
        say_on_terminal("Searching all events ...")
        found = list(services().inbox.erasure.find(words))
        if not found:
            say("No event names this object.")
            return
        counts = Counter(each.state for each in found)
        states = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
        say(f"{plural(len(found), 'event')} found: {states}.")
        if dry_run:
            say_table([_cells(each) for each in found], headings=HEADINGS)
            return
        _refuse_open(found)
        if not yes:
            confirm(f"Erase the content of {plural(len(found), 'event')}? It cannot be undone.")
        _erase_all(found, words, why)


def _cells(event: Event) -> tuple[str, ...]:
    return iso_time(event.received_at, "seconds"), event.id, event.type, event.state


def _refuse_open(events: list[Event]) -> None:
    """Raise ``ClickException`` if an event can still run: it needs its body."""
    for event in events:
        if event.state == State.RUNNING:
            raise click.ClickException(f"{event.id} is running. Call this again when it has ended.")
        if event.state == State.PENDING:
            give_up = hint("events", "give-up", event.id, "--why", "erasure")
            raise click.ClickException(f"{event.id} is pending. Give up on it first: {give_up}.")


def _erase_all(events: list[Event], words: str, why: str) -> None:
    inbox = services().inbox
    # The kind of the object alone: the id is what has to be forgotten.
    prefix = ID.fullmatch(words)
    kind = prefix[1] if prefix else None
    entry = inbox.audit.record(operator(), "erase", kind, why)
    erased = 0
    try:
        for event in progress(events, len(events), "Erasing"):
            erased += inbox.erasure.erase(event, words)
        inbox.erasure.erase_audit(words)
    finally:
        inbox.audit.complete(entry, erased)
    say(f"Erased the content of {plural(erased, 'event')}.")
    if erased < len(events):
        raise click.ClickException("An event has changed since it was found. Call this again.")
