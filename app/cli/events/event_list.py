"""``flask events list``: the events in the inbox."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from flask.cli import with_appcontext

from app.cli.events.filters import filter_options, limit_option, no_events
from app.cli.hints import hint
from app.cli.inbox_errors import explained
from app.cli.output import iso_time, json_option, say, say_json, say_table, shortened
from app.services import services
from app.states import State

if TYPE_CHECKING:
    from app.inbox import Event, Note
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
        say_json([as_object(event) for event in events])
        return
    if paused:
        say(paused_sentence(paused))
    if not events:
        say(no_events(wanted))
        return
    say_table([_cells(each, is_queue=is_queue) for each in events], headings=HEADINGS)
    if len(events) == limit:
        say(f"There may be more than {'this one' if limit == 1 else f'these {limit}'} (--limit).")


def as_object(event: Event) -> dict[str, Any]:
    """Return the fields of an event for JSON. A field that does not apply is None."""
    return {
        "id": event.id,
        "type": event.type,
        "livemode": event.livemode,
        "context": event.context,
        "state": event.state,
        "outcome": event.outcome,
        "reason": event.reason,
        "group": event.fingerprint,
        "release": event.release,
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
