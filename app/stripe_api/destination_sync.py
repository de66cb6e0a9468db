"""Enabling exactly the handled event types at a destination, in two steps: plan and change."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import stripe

from app.stripe_api.destinations import Comparison, Expected, fetch, takes_thin
from app.stripe_api.errors import checked

NOTHING_HANDLED = (
    "No event type has a handler module, and a destination needs at least one type. Write a"
    " handler first"
)
ORDER_WHEN_ADDING = (
    "Adding: deploy the handlers first, then sync. Until then the running version passes these"
    " types to its fallback, and its handlers never get those events."
)
ORDER_WHEN_REMOVING = (
    "Removing: sync first, then deploy the version without the handlers. Stripe still redelivers"
    " earlier events for up to three days."
)


class TypesChanged(Exception):
    """The destination's types have changed since the plan was shown. Nothing was changed."""


class TypesDiffer(Exception):
    """Stripe accepted the change, and the destination has other types than the planned ones."""


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

    @property
    def changes(self) -> bool:
        """True if the destination has to be changed."""
        return bool(self.add or self.remove)


def refusal(comparison: Comparison, expected: Expected) -> str | None:
    """Return why the types of a destination cannot be set: it is not thin, or there are none."""
    if not takes_thin(comparison.destination):
        return comparison.problems[0].sentence
    return None if expected.types else NOTHING_HANDLED


def make_plan(comparison: Comparison, *, prune: bool) -> Plan:
    """Return the changes that enable the handled types. ``prune`` removes the other ones."""
    return Plan(
        add=comparison.missing,
        remove=comparison.unhandled if prune else (),
        keep=comparison.matched,
        unhandled=() if prune else comparison.unhandled,
    )


def change(
    client: stripe.StripeClient, destination_id: str, plan: Plan, seen: Collection[str]
) -> None:
    """Replace the list of types, unless it has changed since these types were ``seen``.

    Stripe has no conditional update. So the list is read again right before the update, and the
    answer is compared after it. Raises ``TypesChanged``, ``TypesDiffer`` and the SDK's errors.
    """
    now = fetch(client, destination_id)
    if set(now.enabled_events) != set(seen) or not takes_thin(now):
        raise TypesChanged
    update = client.v2.core.event_destinations.update
    after = checked(update(destination_id, {"enabled_events": plan.result}))
    if sorted(after.enabled_events) != plan.result:
        raise TypesDiffer
