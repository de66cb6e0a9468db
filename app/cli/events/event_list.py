"""``flask events list``: the events in the inbox."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from flask.cli import with_appcontext

from app.cli.events.filters import (
    filter_options,
    limit_option,
    no_events,
    read_cursor,
    require_known,
)
from app.cli.events.pause_sentences import paused_sentences
from app.cli.inbox_errors import explained
from app.cli.output import iso_time, json_option, say, say_json, say_table, shortened
from app.services import services
from app.states import State

if TYPE_CHECKING:
    from collections.abc import Collection

    from app.inbox import Event
    from app.inbox.filters import EventFilter
    from app.inbox.models import Cursor, EventRow, Page

HEADINGS = (
    *("received", "event id", "type", "state", "attempts", "outcome"),
    *("next retry", "context", "reason"),
)
#: Characters of a reason in the list. ``show`` has all of it.
REASON_LENGTH = 60


@click.command("list")
@filter_options
@limit_option(default=50)
@click.option(
    "--before",
    callback=read_cursor,
    metavar="PLACE",
    help="Only events before this place, which an earlier list printed.",
)
@json_option
@with_appcontext
def list_events(wanted: EventFilter, limit: int, *, before: Cursor | None, as_json: bool) -> None:
    """List events, the latest first.

    A search that finds few events among many stops early. It prints the place from which
    --before continues it.
    """
    inbox, is_queue = services().inbox, services().settings.is_queue
    with explained():
        require_known(inbox, wanted)
        page = inbox.administration.page(wanted, limit=limit, before=before)
        paused = inbox.administration.paused()
        types = inbox.administration.paused_types()
    if as_json:
        say_json([as_object(event) for event in page.events])
        _say_rest(page, err=True)
        return
    if paused:
        say(paused_sentences(paused, None, is_queue=is_queue))
    for name, note in types.items():
        say(paused_sentences(note, name, is_queue=is_queue))
    if page.events:
        rows = [_cells(each, types, is_queue=is_queue) for each in page.events]
        say_table(rows, headings=HEADINGS)
    elif not page.is_partial:
        say(no_events(wanted))
    _say_rest(page)


def _say_rest(page: Page, *, err: bool = False) -> None:
    """Print how to list the older events, if there may be some."""
    if page.older is not None:
        more = "The search stopped early" if page.is_partial else "There are more"
        say(f"{more}: continue with --before {page.older}", err=err)


def as_object(event: Event | EventRow) -> dict[str, Any]:
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
        "erased_at": iso_time(event.erased_at) if event.erased_at else None,
    }


def _cells(event: EventRow, paused: Collection[str], *, is_queue: bool) -> tuple[str, ...]:
    received = iso_time(event.received_at, "seconds")
    about = (event.id, event.type, event.state, str(event.attempt), event.outcome or "-")
    reason = shortened(event.reason or "-", REASON_LENGTH)
    return (
        received,
        *about,
        _next_retry(event, paused, is_queue=is_queue),
        event.context or "-",
        reason,
    )


def _next_retry(event: EventRow, paused: Collection[str], *, is_queue: bool) -> str:
    """Return when the event runs again.

    In inline mode, Stripe decides when it delivers again. It does not if queue mode accepted the
    event.
    """
    if event.state != State.PENDING:
        return "-"
    if not is_queue:
        return "by Stripe" if event.attempt else "by a retry"
    return "paused" if event.type in paused else iso_time(event.due_at, "seconds")
