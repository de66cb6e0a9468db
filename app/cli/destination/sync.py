"""``flask destination sync``: enable exactly the handled event types at a destination."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from flask.cli import with_appcontext

from app.cli.audit_log import note
from app.cli.destination.list_show import expected, show_comparison
from app.cli.hints import hint
from app.cli.output import confirm, plural, say
from app.cli.stripe_errors import explained
from app.factory import make_client
from app.services import services
from app.stripe_api.destination_comparison import compare
from app.stripe_api.destination_sync import (
    ORDER_WHEN_ADDING,
    ORDER_WHEN_REMOVING,
    Plan,
    TypesChanged,
    TypesDiffer,
    change,
    make_plan,
    refusal,
)
from app.stripe_api.destinations import fetch
from app.text import printable

if TYPE_CHECKING:
    import stripe
    from stripe.v2.core import EventDestination


@click.command("sync")
@click.argument("destination_id", metavar="ID")
@click.option("--prune", is_flag=True, help="Also remove types without a handler.")
@click.option("--check", is_flag=True, help="Change nothing, and exit like `check`.")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@with_appcontext
@click.pass_context
def sync(
    context: click.Context, /, destination_id: str, *, prune: bool, check: bool, yes: bool
) -> None:
    """Enable the handled event types of its payload style at the destination ID.

    This shows the changes and asks for confirmation. Types without a handler are removed only with
    --prune. To add types, deploy first, then sync. To remove types, sync first, then deploy.
    """
    client, wanted = make_client(services().settings), expected()
    with explained():
        before = fetch(client, destination_id)
        comparison = compare(before, wanted)
        if check:
            show_comparison(comparison)
            context.exit(1 if comparison.differs else 0)
        if reason := refusal(comparison, wanted):
            raise click.ClickException(printable(f"{reason}."))
        plan = make_plan(comparison, prune=prune)
        _show(plan, before)
    if not plan.changes:
        say()
        say("There is nothing to change.")
        return
    if not yes:
        confirm(f"\nChange {printable(destination_id)}?")
    _apply(client, before, plan)


def _show(plan: Plan, destination: EventDestination) -> None:
    say(f"Plan for {destination.id} ({destination.name}):")
    for name in plan.add:
        say(f"  add     {name}")
    for name in plan.remove:
        say(f"  remove  {name}")
    for name in plan.keep:
        say(f"  keep    {name}")
    for name in plan.unhandled:
        say(f"  keep    {name}  (has no handler; --prune removes it)")
    if plan.changes:
        say()
    if plan.add:
        say(ORDER_WHEN_ADDING)
    if plan.remove:
        say(ORDER_WHEN_REMOVING)


def _apply(client: stripe.StripeClient, before: EventDestination, plan: Plan) -> None:
    """Change the destination, unless it has changed since the plan was shown."""
    with explained():
        try:
            change(client, before.id, plan, before.enabled_events)
        except TypesChanged:
            raise click.ClickException(
                "Its event types have changed since the plan was shown, so this command changed"
                " nothing. Run it again for a new plan."
            ) from None
        except TypesDiffer:
            raise click.ClickException(
                "Stripe accepted the change and has other event types now. Run"
                f" {hint('destination', 'check', before.id)} to see them."
            ) from None
    note("sync_destination", before.id)
    say(f"Changed: {before.id} now has {plural(len(plan.result), 'event type')}.")
