"""``flask migrate plan`` and ``mirror``: which types can move, and a thin destination for them."""

from __future__ import annotations

from dataclasses import asdict

import click
from flask.cli import with_appcontext

from app.cli.destination.create import create_and_show
from app.cli.hints import hint
from app.cli.output import confirm, json_option, plural, say, say_json, say_table
from app.cli.stripe_errors import explained
from app.factory import make_client
from app.services import services
from app.stripe_api.catalog import Kind
from app.stripe_api.destination_sync import new_destination
from app.stripe_api.migration import (
    Endpoint,
    NotSnapshotError,
    TypeToMove,
    fetch_endpoint,
    types_to_move,
)
from app.text import printable

HEADINGS = ("snapshot type", "thin type", "modules", "next")

#: Thin destinations have no entry for all types.
ALL_TYPES = (
    "It has `*`, all types. A thin destination has no such entry, so each type is named."
    " Choose those that you need."
)


@click.command("plan")
@click.argument("endpoint_id", metavar="WE_OR_ED")
@json_option
@with_appcontext
def plan(endpoint_id: str, *, as_json: bool) -> None:
    """List the types of the endpoint WE_OR_ED, each with its thin form and its modules.

    WE_OR_ED is the id of a webhook endpoint or of an event destination of snapshot events. This
    changes nothing.
    """
    endpoint, types = read_endpoint(endpoint_id)
    if as_json:
        say_json(
            {
                **{key: value for key, value in asdict(endpoint).items() if key != "types"},
                "types": [{**asdict(each), "next": each.next_step} for each in types],
            }
        )
        return
    say(f"{endpoint.id} is {endpoint.status} and sends to {endpoint.url or 'no URL'}.")
    if endpoint.has_all:
        say(ALL_TYPES)
    say_table([_cells(each) for each in types], headings=HEADINGS)
    movable = [each for each in types if each.thin]
    say()
    say(f"{plural(len(movable), 'type')} of {len(types)} can move to thin events.")
    if unwritten := [each for each in movable if not each.has_thin_module]:
        name = str(unwritten[0].thin)
        say(f"Write the missing thin modules, such as with {hint('handlers', 'new', name)}.")
    elif movable:
        say(f"Deploy all modules. Then run {hint('migrate', 'mirror', endpoint.id)}.")


@click.command("mirror")
@click.argument("endpoint_id", metavar="WE_OR_ED")
@click.option("--url", help="The URL of the service. [default: that of WE_OR_ED]")
@click.option(
    "--connected-accounts",
    is_flag=True,
    help="Send the events of connected accounts. An event destination says it by itself.",
)
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@with_appcontext
def mirror(endpoint_id: str, url: str | None, *, connected_accounts: bool, yes: bool) -> None:
    """Create a thin destination for the types of the endpoint WE_OR_ED that have a thin module.

    WE_OR_ED stays unchanged. Deploy the modules to all replicas before. Stripe shows the signing
    secret only once.
    """
    endpoint, types = read_endpoint(endpoint_id)
    moving = sorted(each.thin for each in types if each.thin and each.has_thin_module)
    target = url or endpoint.url
    if not moving:
        raise click.ClickException(
            "No type of it has a thin module, so nothing was created. Run"
            f" {hint('migrate', 'plan', endpoint.id)}."
        )
    if target is None:
        raise click.ClickException("It sends to no URL. Add --url.")
    say(f"A thin destination for {target} with {plural(len(moving), 'event type')}:")
    for thin_type in moving:
        say(f"  {thin_type}")
    for each in types:
        if each.thin is None or not each.has_thin_module:
            say(f"  not {each.snapshot}: {each.next_step}")
    if not yes:
        confirm("\nCreate it?")
    events_from = endpoint.events_from or (("@accounts",) if connected_accounts else ("@self",))
    create_and_show(new_destination(Kind.THIN, moving, target, events_from=events_from), target)


def read_endpoint(endpoint_id: str) -> tuple[Endpoint, list[TypeToMove]]:
    """Return the endpoint and its types. Ends the command for a destination of thin events."""
    with explained():
        try:
            endpoint = fetch_endpoint(make_client(services().settings), endpoint_id)
        except NotSnapshotError:
            raise click.ClickException(
                printable(f"{endpoint_id} sends thin events already. Name the one that you leave.")
            ) from None
        return endpoint, types_to_move(endpoint, services().registry.handled_types)


def _cells(each: TypeToMove) -> tuple[str, ...]:
    modules = [
        name
        for name, exists in (
            ("snapshot", each.has_snapshot_module),
            ("thin", each.has_thin_module),
        )
        if exists
    ]
    return each.snapshot, each.thin or "none", ", ".join(modules) or "-", each.next_step
