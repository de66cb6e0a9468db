"""``flask doctor``: checks everything from the settings to a ping from Stripe."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import click
from flask import current_app
from flask.cli import with_appcontext

from app.cli.doctor import local
from app.cli.doctor.alerts import alert_lines
from app.cli.doctor.lines import Level, Line
from app.cli.doctor.remote import Account, Options
from app.cli.output import say
from app.errors import StartError
from app.factory import make_client
from app.services import services
from app.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.processing.registry import Registry


@click.command("doctor")
@click.option("--url", help="The URL of this service. [default: any URL that ends in /webhook]")
@click.option("--ping/--no-ping", default=True, help="Let Stripe send a ping. [default: ping]")
@click.option(
    "--wait",
    type=click.FloatRange(min=0),
    default=15,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the ping.",
)
@click.option("--strict", is_flag=True, help="Exit with 1 on WARN too.")
@with_appcontext
@click.pass_context
def doctor(
    context: click.Context, /, url: str | None, *, ping: bool, wait: float, strict: bool
) -> None:
    """Check the installation, and say what to do about each problem.

    The checks are: settings, handlers, inbox, API key, clock, the event destinations that point
    here, and a ping from Stripe that must arrive in the inbox. Each line is OK, WARN or FAIL. The
    exit status is 1 after a FAIL, with --strict also after a WARN, and otherwise 0.
    """
    levels: Counter[Level] = Counter()
    for line in _check_all(Options(url, ping, wait)):
        line.show()
        levels[line.level] += 1
    say()
    say(", ".join(f"{levels[level]} {level.name}" for level in Level))
    context.exit(1 if max(levels) > (Level.OK if strict else Level.WARN) else 0)


def _check_all(options: Options) -> Iterator[Line]:
    """Yield all lines. If the service cannot start, check as much as possible."""
    if "services" not in current_app.extensions:
        yield from _wrong_settings()
        return
    own = services()
    yield from local.settings_lines(own.settings)
    handlers: Registry | None = own.registry
    try:
        yield from local.handlers_lines(own.registry, own.settings)
    except StartError as error:
        yield from local.problems("handlers", error)
        handlers = None
    yield from local.inbox_lines(own.inbox, own.settings)
    if handlers:
        yield from local.fallback_lines(handlers, own.inbox, livemode=own.settings.livemode)
    yield from alert_lines(own.inbox, own.settings)
    client = make_client(own.settings)
    yield from Account(client, own.settings, handlers, own.inbox, options).lines()


def _wrong_settings() -> Iterator[Line]:
    """Load the settings again, and yield their problems."""
    try:
        Settings.load()
    except StartError as error:
        yield from local.problems("settings", error)
    yield Line(Level.WARN, "others", "not checked", "Correct the settings first")
