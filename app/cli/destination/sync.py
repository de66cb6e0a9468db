"""``flask destination sync``: enable exactly the handled event types at a destination."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click
from flask.cli import with_appcontext

from app.cli.audit_log import note
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
from app.cli.hints import hint
from app.cli.output import confirm, plural, say
from app.cli.stripe_errors import checked, explained
from app.factory import make_client
from app.services import services
from app.text import printable

if TYPE_CHECKING:
    import stripe
    from stripe.v2.core import EventDestination

ORDER_WHEN_ADDING = (
    "Adding: deploy the handlers first, then sync. Until then the running version passes these"
    " types to its fallback, and its handlers never get those events."
)
ORDER_WHEN_REMOVING = (
    "Removing: sync first, then deploy the version without the handlers. Stripe still redelivers"
    " earlier events for up to three days."
)


@dataclass(frozen=True, slots=True)
class Plan:
    """Types to add, to remove, to keep, and to keep without a handler."""

    add: tuple[str, ...]
    remove: tuple[str, ...]
    keep: tuple[str, ...]
    unhandled: tuple[str, ...]

    @property
    def result(self) -> list[str]:
        """The complete new list: an update replaces the old list."""
        return sorted({*self.add, *self.keep, *self.unhandled})


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
    """Enable the handled event types at the destination ID.

    This shows the changes and asks for confirmation. Types without a handler are removed only with
    --prune. To add types, deploy first, then sync. To remove types, sync first, then deploy.
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
        say("There is nothing to change.")
        return
    if not yes:
        confirm(f"\nChange {printable(destination_id)}?")
    _apply(client, before, plan)


def _refuse(comparison: Comparison, expected: Expected) -> None:
    """Refuse a destination that is not thin, and an empty list of types."""
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
    """Replace the list of types, unless it has changed since the plan was shown.

    Stripe has no conditional update. So the list is read again right before the update, and the
    answer is compared after it.
    """
    with explained():
        now = fetch(client, before.id)
        if set(now.enabled_events) != set(before.enabled_events) or not takes_thin(now):
            raise click.ClickException(
                "Its event types have changed since the plan was shown, so this command changed"
                " nothing. Run it again for a new plan."
            )
        update = client.v2.core.event_destinations.update
        after = checked(update(before.id, {"enabled_events": plan.result}))
        if sorted(after.enabled_events) != plan.result:
            raise click.ClickException(
                "Stripe accepted the change and has other event types now. Run"
                f" {hint('destination', 'check', before.id)} to see them."
            )
    note("sync_destination", before.id)
    say(f"Changed: {before.id} now has {plural(len(plan.result), 'event type')}.")
