"""``flask events pause`` and ``resume``: stop and resume the claims of the workers."""

from __future__ import annotations

import click
from flask.cli import with_appcontext

from app.cli.events.pause_sentences import paused_sentences
from app.cli.inbox_errors import explained
from app.cli.operator import operator
from app.cli.output import say
from app.errors import StartError
from app.operations.pausing import type_warnings
from app.services import services

INLINE = "PROCESSING is inline: callbacks run in the requests, without workers."
PAUSED_INLINE = f"{INLINE} A pause takes effect when you set PROCESSING=queue."


@click.command("pause")
@click.option("--type", "type_", metavar="TYPE", help="Pause only this event type.")
@click.option("--why", metavar="TEXT", help="The reason, shown to other operators.")
@with_appcontext
def pause(type_: str | None, why: str | None) -> None:
    """Stop the claims of all workers, on all replicas, until `resume`.

    With --type, the workers go on with all other event types. A pause survives restarts. Running
    callbacks continue. Deliveries are still recorded and answered 200.
    """
    administration = services().inbox.administration
    with explained():
        changed = administration.pause(by=operator(), why=why, type_=type_)
        administration.park()
        paused = administration.paused_types().get(type_) if type_ else administration.paused()
        warnings = _warnings(type_) if type_ else []
    for warning in warnings:
        say(warning, err=True)
    if not changed:
        say(f"{_subject(type_)} already paused.")
    if paused:
        say(paused_sentences(paused, type_, is_queue=services().settings.is_queue))
    _say_inline(PAUSED_INLINE)


@click.command("resume")
@click.option("--type", "type_", metavar="TYPE", help="Resume only this event type.")
@click.option("--why", metavar="TEXT", help="The reason, for the audit log.")
@with_appcontext
def resume(type_: str | None, why: str | None) -> None:
    """Resume the claims of all workers, or those of one event type.

    A type that was paused with --type is resumed only with --type.
    """
    administration = services().inbox.administration
    with explained():
        changed = administration.resume(by=operator(), why=why, type_=type_)
        administration.park()
        types = administration.paused_types()
    say(f"{_subject(type_)} {'resumed' if changed else 'not paused'}.")
    for name, note in types.items():
        if type_ is None:
            say(paused_sentences(note, name, is_queue=services().settings.is_queue))
    _say_inline(INLINE)


def _subject(type_: str | None) -> str:
    return f"{type_} is" if type_ else "The workers are"


def _warnings(event_type: str) -> list[str]:
    """Return a warning if the type may be misspelt. A broken handler module prevents no pause."""
    try:
        handled = services().registry.handled_types
    except StartError:
        return []
    return type_warnings(services().inbox, event_type, handled=handled)


def _say_inline(sentence: str) -> None:
    if not services().settings.is_queue:
        say(sentence, err=True)
