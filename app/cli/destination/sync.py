"""``flask destination sync``: bring a destination's event types in line with the handlers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click
from flask.cli import with_appcontext

from app.cli.destination.compare import (
    Comparison,
    Expected,
    compare,
    fetch,
    handled_types,
    takes_thin,
)
from app.cli.destination.create import NOTHING_HANDLED
from app.cli.destination.list_show import show_comparison
from app.cli.output import say
from app.cli.stripe_errors import checked, explained
from app.factory import make_client
from app.services import services
from app.text import printable

if TYPE_CHECKING:
    import stripe
    from stripe.v2.core import EventDestination

ORDER_WHEN_ADDING = (
    "Adding: deploy the handlers first, then sync. Until they run, the running version gives these"
    " types to its fallback, which takes them for good."
)
ORDER_WHEN_REMOVING = (
    "Removing: sync first, then deploy the version without the handlers. Stripe still redelivers"
    " what it made before, for up to three days."
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be added and removed, what stays, and what stays without a handler."""

    add: tuple[str, ...]
    remove: tuple[str, ...]
    keep: tuple[str, ...]
    unhandled: tuple[str, ...]

    @property
    def result(self) -> list[str]:
        """The whole list that Stripe gets: an update replaces the one that is there."""
        return sorted({*self.add, *self.keep, *self.unhandled})


@click.command("sync")
@click.argument("destination_id", metavar="ID")
@click.option("--prune", is_flag=True, help="Remove the types that have no handler, too.")
@click.option("--check", is_flag=True, help="Change nothing; exit as `flask destination check`.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@with_appcontext
@click.pass_context
def sync(
    context: click.Context, /, destination_id: str, *, prune: bool, check: bool, yes: bool
) -> None:
    """Enable the handled event types at the destination ID.

    Shows the plan and asks before anything is changed. Types without a handler are removed only
    with --prune. Deploy first and then sync when types are added; sync first and then deploy when
    they are removed.
    """
    client, registry = make_client(services().settings), services().registry
    expected = Expected(handled_types(registry), services().settings.livemode)
    with explained():
        before = fetch(client, destination_id)
        comparison = compare(before, expected)
        if check:
            show_comparison(comparison)
            context.exit(1 if comparison.differs else 0)
        _refuse(comparison, expected)
        plan = _plan(comparison, prune=prune)
        _show(plan, before)
    if not (plan.add or plan.remove):
        say()
        say("Nothing to change.")
        return
    if not yes:
        click.confirm(f"\nChange {printable(destination_id)}?", abort=True)
    _apply(client, before, plan)


def _refuse(comparison: Comparison, expected: Expected) -> None:
    """Refuse where no list of types would help, or where it would be empty."""
    if not takes_thin(comparison.destination):
        raise click.ClickException(printable(f"{comparison.problems[0].sentence}."))
    if not expected.types:
        raise click.ClickException(f"{NOTHING_HANDLED}.")


def _plan(comparison: Comparison, *, prune: bool) -> Plan:
    return Plan(
        add=comparison.missing,
        remove=comparison.unhandled if prune else (),
        keep=comparison.matched,
        unhandled=() if prune else comparison.unhandled,
    )


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
    if plan.add or plan.remove:
        say()
    if plan.add:
        say(ORDER_WHEN_ADDING)
    if plan.remove:
        say(ORDER_WHEN_REMOVING)


def _apply(client: stripe.StripeClient, before: EventDestination, plan: Plan) -> None:
    """Replace the list of types, unless somebody else changed it since the plan was made.

    Stripe cannot be told to change only what is still as it was, so the list is read once more
    right before, and what came of it is read after.
    """
    with explained():
        now = fetch(client, before.id)
        if set(now.enabled_events) != set(before.enabled_events) or not takes_thin(now):
            raise click.ClickException(
                "Somebody else changed its event types meanwhile, so nothing was changed here."
                " Call the command again for a new plan."
            )
        update = client.v2.core.event_destinations.update
        after = checked(update(before.id, {"enabled_events": plan.result}))
        if sorted(after.enabled_events) != plan.result:
            raise click.ClickException(
                "Stripe took the change and has other event types now. Look with"
                f" `flask destination check {before.id}`."
            )
    say(f"Changed: {before.id} has {len(plan.result)} event types now.")
