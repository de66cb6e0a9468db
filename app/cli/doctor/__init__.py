"""``flask doctor``: is everything wired, from the settings to Stripe and back."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import click
from flask import current_app
from flask.cli import with_appcontext

from app.cli.doctor import local
from app.cli.doctor.lines import Level, Line
from app.cli.doctor.remote import Account, Options
from app.cli.output import say
from app.errors import StartError
from app.factory import make_client, make_inbox
from app.inbox import Inbox
from app.processing import registry
from app.services import services
from app.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.processing.registry import Registry


@click.command("doctor")
@click.option("--url", help="The service's own URL. [default: destinations to any /webhook]")
@click.option("--ping/--no-ping", default=True, help="Have Stripe send a ping. [default: ping]")
@click.option(
    "--wait",
    type=click.FloatRange(min=0),
    default=15,
    show_default=True,
    metavar="SECONDS",
    help="How long a ping may take to come.",
)
@click.option("--strict", is_flag=True, help="Exit with 1 on WARN as well.")
@with_appcontext
@click.pass_context
def doctor(
    context: click.Context, /, url: str | None, *, ping: bool, wait: float, strict: bool
) -> None:
    """Look at everything that has to be right, and say what to do where it is not.

    That is the settings, the handlers, the inbox, the API key, the clock, the event destinations
    that point here, and a ping from Stripe that has to come to the inbox. Each line is OK, WARN or
    FAIL. Exit status 1 when one is FAIL, with --strict also when one is WARN, and 0 otherwise.
    """
    levels: Counter[Level] = Counter()
    for line in _examine(Options(url, ping, wait)):
        line.show()
        levels[line.level] += 1
    say()
    say(", ".join(f"{levels[level]} {level.name}" for level in Level))
    context.exit(1 if max(levels) > (Level.OK if strict else Level.WARN) else 0)


def _examine(options: Options) -> Iterator[Line]:
    """Yield all lines. A service that cannot start is examined as far as it goes."""
    if "services" in current_app.extensions:
        own = services()
        yield from _look(own.settings, own.registry, own.inbox, options)
        return
    try:
        settings = Settings.load()
    except StartError as error:
        yield from local.problems("settings", error)
        yield Line(Level.WARN, "others", "not looked at", "They need settings that can be used")
        return
    inbox = make_inbox(settings)
    try:
        yield from _look(settings, None, inbox, options)
    finally:
        inbox.close()


def _look(
    settings: Settings, plugged_in: Registry | None, inbox: Inbox, options: Options
) -> Iterator[Line]:
    """Yield all lines but those of wrong settings. Without ``plugged_in`` it says why."""
    yield from local.settings_lines(settings)
    if plugged_in:
        yield from local.handlers_lines(plugged_in, settings)
    else:
        yield from _wrong_handlers(settings)
    yield from local.inbox_lines(inbox, settings)
    yield from Account(make_client(settings), settings, plugged_in, inbox, options).lines()


def _wrong_handlers(settings: Settings) -> Iterator[Line]:
    """Load the handlers once more, for what is wrong with them."""
    try:
        registry.load(settings.handlers_package)
    except StartError as error:
        yield from local.problems("handlers", error)
