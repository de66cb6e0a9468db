"""``flask destination list`` and ``check``: the destinations at Stripe, and their differences."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
from flask.cli import with_appcontext

from app.cli.hints import hint
from app.cli.output import json_option, mode, say, say_json, say_table
from app.cli.stripe_errors import explained
from app.factory import make_client
from app.services import services
from app.stripe_api.destination_comparison import compare
from app.stripe_api.destinations import (
    ANY_URL,
    Comparison,
    Expected,
    fetch,
    fetch_all,
    payload_of,
    status_of,
    url_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stripe.v2.core import EventDestination

HEADINGS = ("id", "name", "status", "payload", "events from", "types", "sends to")


@click.command("list")
@json_option
@with_appcontext
def list_destinations(*, as_json: bool) -> None:
    """List the event destinations of the account and mode of the key."""
    settings = services().settings
    with explained():
        found = fetch_all(make_client(settings))
        rows = [_cells(one) for one in found]
        objects = [as_object(one) for one in found]
    if as_json:
        say_json(objects)
    elif not rows:
        say(
            f"No event destinations in {mode(live=settings.livemode)} mode. Create one with"
            f" {hint('destination', 'create', '--url', ANY_URL)}."
        )
    else:
        say_table([HEADINGS, *rows])


@click.command("check")
@click.argument("destination_id", metavar="ID")
@click.option("--url", help="The expected URL. [default: any URL that ends in /webhook]")
@click.option(
    "--connected-accounts", is_flag=True, help="Require that it sends events of connected accounts."
)
@json_option
@with_appcontext
@click.pass_context
def check(
    context: click.Context,
    /,
    destination_id: str,
    url: str | None,
    *,
    connected_accounts: bool,
    as_json: bool,
) -> None:
    """Compare the destination ID with the code. Exit status 1 if they differ.

    A thin destination is compared with the handled thin types, and a snapshot destination with the
    handled snapshot types. The handler of a type that is not enabled at Stripe is never called.
    Events of a type that is enabled and has no handler go to the fallback.
    """
    wanted = expected(url, connected_accounts=connected_accounts)
    with explained():
        comparison = compare(fetch(make_client(services().settings), destination_id), wanted)
        show_comparison(comparison, as_json=as_json)
    context.exit(1 if comparison.differs else 0)


def expected(url: str | None = None, *, connected_accounts: bool = False) -> Expected:
    """Return the expected state of a destination, for the handlers and settings of this process."""
    registry, livemode = services().registry, services().settings.livemode
    types = registry.handled_types
    return Expected(types, livemode, url, connected_accounts, hint, registry.kinds)


def show_comparison(comparison: Comparison, *, as_json: bool = False) -> None:
    """Print a destination and its differences as text, or as JSON."""
    if as_json:
        say_json(_comparison_as_object(comparison))
        return
    _show_destination(comparison.destination)
    _show_types("enabled and handled", comparison.matched)
    _show_types("missing at Stripe", comparison.missing, "its handler is never called")
    _show_types("without a handler", comparison.unhandled, "goes to the fallback")
    for problem in (*comparison.problems, *comparison.warnings):
        say()
        say(f"{problem.sentence}.")
    if comparison.missing or comparison.unhandled:
        prune = ["--prune"] if comparison.unhandled else []
        sync = hint("destination", "sync", comparison.destination.id, *prune)
        say()
        say(f"The event types differ. Bring them in line with {sync}.")
    elif not comparison.differs:
        say()
        say("It matches the code.")


def _show_destination(destination: EventDestination) -> None:
    say(f"{destination.id}  {destination.name}")
    fields = {
        "type": destination.type,
        "payload": payload_of(destination),
        "status": status_of(destination),
        "mode": mode(live=destination.livemode),
        "events from": ", ".join(destination.events_from or []) or "no account",
        "sends to": url_of(destination) or "no URL",
    }
    for name, value in fields.items():
        say(f"  {name:<11}  {value}")


def _show_types(heading: str, types: Sequence[str], remark: str = "") -> None:
    if types:
        say()
        say(f"{heading}:")
    width = max(map(len, types), default=0)
    for name in types:
        say(f"  {name:<{width}}  {remark}".rstrip())


def as_object(destination: EventDestination) -> dict[str, Any]:
    """Return the fields of a destination for JSON."""
    return {
        "id": destination.id,
        "name": destination.name,
        "type": destination.type,
        "event_payload": destination.event_payload,
        "snapshot_api_version": destination.snapshot_api_version,
        "status": destination.status,
        "livemode": destination.livemode,
        "events_from": destination.events_from,
        "url": url_of(destination),
        "enabled_events": sorted(destination.enabled_events),
    }


def _comparison_as_object(comparison: Comparison) -> dict[str, Any]:
    return {
        **as_object(comparison.destination),
        "differs": comparison.differs,
        "problems": [asdict(one) for one in comparison.problems],
        "warnings": [asdict(one) for one in comparison.warnings],
        "missing_at_stripe": list(comparison.missing),
        "without_a_handler": list(comparison.unhandled),
    }


def _cells(destination: EventDestination) -> tuple[str, ...]:
    return (
        destination.id,
        destination.name,
        status_of(destination),
        payload_of(destination),
        ", ".join(destination.events_from or []),
        str(len(destination.enabled_events)),
        url_of(destination) or destination.type,
    )
