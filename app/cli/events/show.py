"""``flask events show``: one event, its body, and its attempts with their tracebacks."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
from flask.cli import with_appcontext

from app.cli.events.event_list import as_object
from app.cli.events.pause_sentences import paused_sentences
from app.cli.hints import hint
from app.cli.inbox_errors import explained
from app.cli.output import iso_time, json_option, say, say_json, say_lines
from app.operations import history
from app.services import services
from app.states import State
from app.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from app.inbox import Attempt, Effect, Event, Inbox, Note
    from app.inbox.pairs import Twin
    from app.operations.history import Entry


@click.command("show")
@click.argument("event_id", metavar="ID")
@click.option("--full", is_flag=True, help="Show each attempt, and all frames of its traceback.")
@json_option
@with_appcontext
def show(event_id: str, *, full: bool, as_json: bool) -> None:
    """Show one event: its state, body, attempts and effects, and its retries with their operators.

    A twin is the other event of the same action at Stripe, if the type has a module for both kinds.
    An effect is one that app.once recorded. A traceback has the exception first, and then the
    frames of the handler package. Attempts that ended in the same way are shown once.
    """
    inbox = services().inbox
    with explained():
        event = inbox.administration.find(event_id)
        if event is None:
            raise click.ClickException(f"The inbox has no event {printable(event_id)}.")
        attempts = inbox.administration.attempts(event_id)
        retries = inbox.administration.retries(event_id)
        effects = inbox.effects.of_event(event_id)
        twins = inbox.pairs.twins(event_id)
        pauses = _pauses(inbox, event)
    if as_json:
        history_of = _with_history(event, attempts, retries, effects)
        say_json({**history_of, "twins": [asdict(each) for each in twins]})
        return
    for sentence in pauses:
        say(sentence)
    for name, value in _fields(event).items():
        if value is not None:
            say(f"{name:<12} {value}")
    for twin in twins:
        say(f"{'twin':<12} {_about(twin)}")
    say()
    say("body")
    say_lines(history.pretty_body(event.body))
    _say_attempts(attempts, services().settings.handlers_package, full=full)
    if effects:
        say()
    for effect in effects:
        say(f"effect {effect.purpose!r} recorded at {iso_time(effect.at)}")
    for retry in retries:
        say()
        say(f"retried by {retry.by} at {iso_time(retry.at)}: {retry.why or 'no reason given'}")


def _about(twin: Twin) -> str:
    """Return the id of a twin, and what became of it."""
    if twin.type is None:
        return f"{twin.id}, which is not in the inbox"
    about = ", ".join(each for each in (twin.id, twin.type, twin.state, twin.outcome) if each)
    return f"{about}: {hint('events', 'show', twin.id)}"


def _pauses(inbox: Inbox, event: Event) -> list[str]:
    """Return a sentence for each pause that a pending event is under."""
    if event.state != State.PENDING:
        return []
    paused = inbox.administration.paused()
    of_type = inbox.administration.paused_types().get(event.type)
    is_queue = services().settings.is_queue
    pauses = ((None, paused), (event.type, of_type))
    return [paused_sentences(note, name, is_queue=is_queue) for name, note in pauses if note]


def _fields(event: Event) -> dict[str, Any]:
    """Return the fields of the list, the begin of an attempt that runs, and the trace."""
    is_running = event.state == State.RUNNING
    claimed_at = iso_time(event.claimed_at) if is_running and event.claimed_at else None
    return {**as_object(event), "claimed_at": claimed_at, "trace": event.trace}


def _with_history(
    event: Event, attempts: list[Attempt], retries: list[Note], effects: list[Effect]
) -> dict[str, Any]:
    return {
        **_fields(event),
        "history": [
            {
                "attempt": each.attempt,
                "started_at": iso_time(each.started_at),
                "ended_at": iso_time(each.ended_at),
                "outcome": each.outcome,
                "reason": each.reason,
                "traceback": each.traceback,
                "group": each.fingerprint,
                "release": each.release,
                "claimed_by": each.claimed_by,
            }
            for each in attempts
        ],
        "retries": [{"at": iso_time(each.at), "by": each.by, "why": each.why} for each in retries],
        "effects": [{"purpose": each.purpose, "at": iso_time(each.at)} for each in effects],
        "body": history.body_text(event.body),
    }


def _say_attempts(attempts: Iterable[Attempt], package: str, *, full: bool) -> None:
    """Print the attempts. Unless ``full``, those that ended in the same way are one entry."""
    for entry in history.entries(attempts, package, full=full):
        say()
        _say_heading(entry)
        if not entry.last.traceback:
            continue
        if full:
            say_lines(entry.traceback.full)
        elif entry.is_repeated:
            say("The same traceback.")
        else:
            say_lines(entry.traceback.brief("--full"))


def _say_heading(entry: Entry) -> None:
    """Print the outcome and the times of one attempt, or of several with the same end."""
    first, last = entry.first, entry.last
    if entry.count > 1:
        say(
            f"attempts {first.attempt} to {last.attempt}: {last.outcome}, all with the same end,"
            f" from {iso_time(first.started_at)} to {iso_time(last.ended_at)}"
        )
        return
    seconds = last.ended_at - last.started_at
    # The wall clock can step back during an attempt.
    took = f"for {seconds:.3f} s" if seconds >= 0 else f"to {iso_time(last.ended_at)}"
    # An operator who gave up on the event is in the audit log.
    where = f", in {last.claimed_by}" if last.claimed_by else ""
    say(f"attempt {last.attempt}: {last.outcome}, from {iso_time(last.started_at)} {took}{where}")
