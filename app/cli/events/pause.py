"""``flask events pause`` and ``resume``: stop and resume the claims of all workers."""

from __future__ import annotations

import click
from flask.cli import with_appcontext

from app.cli.events.event_list import paused_sentence
from app.cli.events.retry import operator
from app.cli.inbox_errors import explained
from app.cli.output import say
from app.services import services

INLINE = (
    "PROCESSING is inline: callbacks run in the requests, and there are no workers to pause."
    " A pause takes effect when you set PROCESSING=queue."
)


@click.command("pause")
@click.option("--why", metavar="TEXT", help="The reason, shown to other operators.")
@with_appcontext
def pause(why: str | None) -> None:
    """Stop the claims of all workers, on all replicas, until `resume`.

    A pause survives restarts. Running callbacks continue. Deliveries are still recorded and
    answered 200.
    """
    with explained():
        changed = services().inbox.administration.pause(by=operator(), why=why)
        paused = services().inbox.administration.paused()
    if not changed:
        say("The workers are already paused.")
    if paused:
        say(paused_sentence(paused))
    _say_inline()


@click.command("resume")
@with_appcontext
def resume() -> None:
    """Resume the claims of all workers."""
    with explained():
        changed = services().inbox.administration.resume()
    say("The workers are resumed." if changed else "The workers are not paused.")
    _say_inline()


def _say_inline() -> None:
    if not services().settings.is_queue:
        say(INLINE, err=True)
