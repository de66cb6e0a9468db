"""``flask events list`` and ``show``: the events in the inbox."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from flask.cli import with_appcontext

from app.cli.events.filters import filter_options, limit_option, no_events
from app.cli.hints import hint
from app.cli.inbox_errors import explained
from app.cli.output import (
    iso_time,
    json_option,
    say,
    say_json,
    say_lines,
    say_table,
    shortened,
)
from app.services import services
from app.states import State
from app.text import printable

if TYPE_CHECKING:
    from app.inbox import Attempt, Event, Note
    from app.inbox.filters import EventFilter

HEADINGS = (
    *("received", "event id", "type", "state", "attempts", "outcome"),
    *("next retry", "context", "reason"),
)
#: Characters of a reason in the list. ``show`` has all of it.
REASON_LENGTH = 60


@click.command("list")
@filter_options
@limit_option(default=50)
@json_option
@with_appcontext
def list_events(wanted: EventFilter, limit: int, *, as_json: bool) -> None:
    """List events, the latest first."""
    inbox, is_queue = services().inbox, services().settings.is_queue
    with explained():
        events = inbox.administration.select(wanted, limit)
        paused = inbox.administration.paused()
    if as_json:
        say_json([_as_object(event) for event in events])
        return
    if paused:
        say(paused_sentence(paused))
    if not events:
        say(no_events(wanted))
        return
    say_table([_cells(each, is_queue=is_queue) for each in events], headings=HEADINGS)
    if len(events) == limit:
        say(f"There may be more than {'this one' if limit == 1 else f'these {limit}'} (--limit).")


@click.command("show")
@click.argument("event_id", metavar="ID")
@json_option
@with_appcontext
def show(event_id: str, *, as_json: bool) -> None:
    """Show one event: its state, its attempts, its retries with their operators, and its body."""
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
        say_json(_with_history(event, attempts, retries))
        return
    for name, value in _as_object(event).items():
        if value is not None:
            say(f"{name:<12} {value}")
    for attempt in attempts:
        _say_attempt(attempt)
    for retry in retries:
        say()
        say(f"retried by {retry.by} at {iso_time(retry.at)}: {retry.why or 'no reason given'}")
    say()
    say("body")
    say_lines(_body(event))


def _with_history(event: Event, attempts: list[Attempt], retries: list[Note]) -> dict[str, Any]:
    return {
        **_as_object(event),
        "history": [
            {
                "attempt": each.attempt,
                "started_at": iso_time(each.started_at),
                "ended_at": iso_time(each.ended_at),
                "outcome": each.outcome,
                "reason": each.reason,
                "traceback": each.traceback,
                "claimed_by": each.claimed_by,
            }
            for each in attempts
        ],
        "retries": [{"at": iso_time(each.at), "by": each.by, "why": each.why} for each in retries],
        "body": _body(event),
    }


def _as_object(event: Event) -> dict[str, Any]:
    """Return the fields of an event for JSON. A field that does not apply is None."""
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
        "received_at": iso_time(event.received_at),
        "due_at": iso_time(event.due_at) if event.state == State.PENDING else None,
        "lease_until": iso_time(event.lease_until) if event.lease_until else None,
        "claimed_by": event.claimed_by if event.state == State.RUNNING else None,
        "orphan": event.is_orphan or None,
        "settled_at": iso_time(event.settled_at) if event.settled_at else None,
    }


def _body(event: Event) -> str:
    return event.body.decode("utf-8", "replace")


def paused_sentence(paused: Note) -> str:
    """Return when the workers were paused, by which operator, why, and how to resume them."""
    why = f": {paused.why}" if paused.why else ""
    return (
        f"The workers are paused since {iso_time(paused.at)}, by {paused.by}{why}."
        f" Resume them with {hint('events', 'resume')}."
    )


def _cells(event: Event, *, is_queue: bool) -> tuple[str, ...]:
    received = iso_time(event.received_at, "seconds")
    about = (event.id, event.type, event.state, str(event.attempt), event.outcome or "-")
    reason = shortened(event.reason or "-", REASON_LENGTH)
    return (received, *about, _next_retry(event, is_queue=is_queue), event.context or "-", reason)


def _next_retry(event: Event, *, is_queue: bool) -> str:
    """Return when the event runs again. In inline mode, Stripe decides when it delivers again."""
    if event.state != State.PENDING:
        return "-"
    return iso_time(event.due_at, "seconds") if is_queue else "by Stripe"


def _say_attempt(attempt: Attempt) -> None:
    seconds = attempt.ended_at - attempt.started_at
    # The wall clock can step back during an attempt.
    took = f"for {seconds:.3f} s" if seconds >= 0 else f"to {iso_time(attempt.ended_at)}"
    say()
    say(
        f"attempt {attempt.attempt}: {attempt.outcome}, from {iso_time(attempt.started_at)} {took},"
        f" in {attempt.claimed_by}"
    )
    if attempt.traceback:
        say_lines(attempt.traceback.rstrip())
