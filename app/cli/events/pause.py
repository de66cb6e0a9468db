"""``flask events pause`` and ``resume``: have the workers claim nothing for a while."""

from __future__ import annotations

import click
from flask.cli import with_appcontext

from app.cli.events.filters import explained
from app.cli.events.list_show import say_paused
from app.cli.events.retry import operator
from app.cli.output import say
from app.services import services

INLINE = (
    "PROCESSING is inline: there are no workers to pause, callbacks run in the requests."
    " What was paused applies when PROCESSING becomes queue."
)


@click.command("pause")
@click.option("--why", metavar="TEXT", help="The reason, for whoever wonders.")
@with_appcontext
def pause(why: str | None) -> None:
    """Let no worker take another event, on any replica, until `resume`, whatever is restarted.

    What runs goes on, and deliveries are still recorded and answered 200.
    """
    with explained():
        changed = services().inbox.administration.pause(by=operator(), why=why)
        paused = services().inbox.administration.paused()
    if not changed:
        say("They are paused already.")
    if paused:
        say(say_paused(paused))
    _say_inline()


@click.command("resume")
@with_appcontext
def resume() -> None:
    """Let the workers go on."""
    with explained():
        changed = services().inbox.administration.resume()
    say("The workers go on." if changed else "The workers are not paused.")
    _say_inline()


def _say_inline() -> None:
    if not services().settings.is_queue:
        say(INLINE, err=True)
