"""Creates a destination, and enables exactly the handled event types at one: plan and change."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import stripe

from app.stripe_api.catalog import Kind
from app.stripe_api.destinations import (
    WEBHOOK_ENDPOINT,
    Comparison,
    Expected,
    fetch,
    sent_kind,
)
from app.stripe_api.errors import checked

if TYPE_CHECKING:
    from stripe.params.v2.core import EventDestinationCreateParams

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


def new_destination(  # noqa: PLR0913 - one argument for each field
    kind: Kind,
    types: Collection[str],
    url: str,
    *,
    events_from: Sequence[str],
    name: str | None = None,
    api_version: str | None = None,
) -> EventDestinationCreateParams:
    """Return the parameters of a new destination that sends ``types`` of one ``kind`` to ``url``.

    Its default name is the host of the URL. The objects of snapshot events are of ``api_version``,
    by default that of the SDK, whose classes describe them. The answer has URL and signing secret.
    """
    params: EventDestinationCreateParams = {
        "name": name or urlsplit(url).netloc,
        "type": WEBHOOK_ENDPOINT,
        "event_payload": kind.value,
        "enabled_events": sorted(types),
        "events_from": list(events_from),
        "webhook_endpoint": {"url": url},
        "include": ["webhook_endpoint.signing_secret", "webhook_endpoint.url"],
    }
    if kind is Kind.SNAPSHOT:
        params["snapshot_api_version"] = api_version or stripe.api_version
    return params


def nothing_handled(kind: Kind) -> str:
    """Return why there are no types for a destination of this ``kind``."""
    return (
        f"No {kind} event type has a handler module, and a destination needs at least one type."
        " Write a handler first"
    )


def refusal(comparison: Comparison, expected: Expected) -> str | None:
    """Return why the types of a destination cannot be set: wrong events, or no handled types."""
    if comparison.kind is None:
        return comparison.problems[0].sentence
    return None if expected.types_of(comparison.kind) else nothing_handled(comparison.kind)


def make_plan(comparison: Comparison, *, prune: bool) -> Plan:
    """Return the changes that enable the handled types. ``prune`` removes the other ones.

    A wildcard is removed with ``prune``. The types that it has enabled are added then.
    """
    named = frozenset(comparison.destination.enabled_events)
    by_wildcard = tuple(each for each in comparison.matched if each not in named)
    return Plan(
        add=(*comparison.missing, *(by_wildcard if prune else ())),
        remove=comparison.unhandled if prune else (),
        keep=tuple(each for each in comparison.matched if each in named),
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
    if set(now.enabled_events) != set(seen) or sent_kind(now) is None:
        raise TypesChanged
    update = client.v2.core.event_destinations.update
    after = checked(update(destination_id, {"enabled_events": plan.result}))
    if sorted(after.enabled_events) != plan.result:
        raise TypesDiffer
