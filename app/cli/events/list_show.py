"""``flask events list`` and ``show``: what the inbox holds."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
from flask.cli import with_appcontext

from app.cli.events.filters import MOST, explained, wanted_options
from app.cli.output import say, say_json, say_lines, say_table
from app.services import services
from app.text import printable

if TYPE_CHECKING:
    from app.inbox import Attempt, Event, Note
    from app.inbox.sql.filters import EventFilter

HEADINGS = ("received", "event id", "type", "state", "attempts", "outcome", "context")


@click.command("list")
@wanted_options
@click.option("--limit", default=50, show_default=True, type=click.IntRange(min=1, max=MOST))
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for other programs.")
@with_appcontext
def list_events(wanted: EventFilter, limit: int, *, as_json: bool) -> None:
    """Show the events of the inbox, the latest first."""
    inbox = services().inbox
    with explained():
        events = inbox.administration.select(wanted, limit)
        paused = inbox.administration.paused()
    if as_json:
        say_json([_row(event) for event in events])
        return
    if paused:
        say(say_paused(paused))
    if not events:
        say(f"No events {wanted.words()}.")
        return
    say_table([HEADINGS, *map(_cells, events)])
    if len(events) == limit:
        say(f"The latest {limit}; there may be more (--limit).")


@click.command("show")
@click.argument("event_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for other programs.")
@with_appcontext
def show(event_id: str, *, as_json: bool) -> None:
    """Show one event: its state, its attempts, who had it run again, and its body."""
    inbox = services().inbox
    with explained():
        event = inbox.administration.find(event_id)
        if event is None:
            raise click.ClickException(f"The inbox has no event {printable(event_id)}.")
        attempts, retries = (
            inbox.administration.attempts(event_id),
            inbox.administration.retries(event_id),
        )
    if as_json:
        say_json(_whole(event, attempts, retries))
        return
    _print_fields(event)
    for attempt in attempts:
        _print_attempt(attempt)
    for retry in retries:
        say()
        say(f"run again by {retry.by} at {when(retry.at)}: {retry.why or 'no reason given'}")
    say()
    say("body")
    say_lines(event.body.decode("utf-8", "replace"))


def _whole(event: Event, attempts: list[Attempt], retries: list[Note]) -> dict[str, Any]:
    return {
        **_row(event),
        "history": [
            {
                "attempt": each.attempt,
                "started_at": when(each.started_at),
                "ended_at": when(each.ended_at),
                "outcome": each.outcome,
                "reason": each.reason,
                "traceback": each.traceback,
                "claimed_by": each.claimed_by,
            }
            for each in attempts
        ],
        "retries": [{"at": when(each.at), "by": each.by, "why": each.why} for each in retries],
        "body": event.body.decode("utf-8", "replace"),
    }


def _row(event: Event) -> dict[str, Any]:
    return {
        "id": event.id,
        "type": event.type,
        "livemode": event.livemode,
        "context": event.context,
        "state": event.state,
        "outcome": event.outcome,
        "reason": event.reason,
        "attempts": event.attempt,
        "deliveries": event.deliveries,
        "source": event.source,
        "received_at": when(event.received_at),
        "due_at": when(event.due_at) if event.state == "pending" else None,
        "lease_until": when(event.lease_until) if event.lease_until else None,
        "claimed_by": event.claimed_by if event.state == "running" else None,
        "orphan": event.is_orphan or None,
        "settled_at": when(event.settled_at) if event.settled_at else None,
    }


def when(seconds: float) -> str:
    """Return a time of the inbox's as people write it, in UTC."""
    return (
        datetime.fromtimestamp(seconds, UTC).isoformat(sep=" ", timespec="milliseconds")[:-6] + "Z"
    )


def say_paused(paused: Note) -> str:
    """Return the sentence that says who paused the workers, and what to do."""
    why = f": {paused.why}" if paused.why else ""
    return (
        f"The workers are paused since {when(paused.at)}, by {paused.by}{why}."
        " Let them go on with: flask events resume"
    )


def _cells(event: Event) -> tuple[str, ...]:
    received = when(event.received_at)[:19]
    about = (event.id, event.type, event.state, str(event.attempt))
    return (received, *about, event.outcome or "-", event.context or "-")


def _print_fields(event: Event) -> None:
    for name, value in _row(event).items():
        if value is not None:
            say(f"{name:<12} {value}")


def _print_attempt(attempt: Attempt) -> None:
    seconds = attempt.ended_at - attempt.started_at
    say()
    took = f"for {seconds:.3f} s" if seconds >= 0 else f"to {when(attempt.ended_at)}"
    say(
        f"attempt {attempt.attempt}: {attempt.outcome}, from {when(attempt.started_at)} {took},"
        f" in {attempt.claimed_by}"
    )
    if attempt.traceback:
        say_lines(attempt.traceback.rstrip())
