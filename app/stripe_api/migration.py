"""What an endpoint of snapshot events has enabled, and the thin form of each type."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.stripe_api.catalog import Kind, event_types, kind_of, snapshot_type
from app.stripe_api.destinations import WILDCARD, fetch, url_of
from app.stripe_api.errors import checked

if TYPE_CHECKING:
    import stripe

#: The beginning of the id of a webhook endpoint of the v1 API. Others are event destinations.
_ENDPOINT = "we_"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint of snapshot events at Stripe.

    ``has_all``: it has ``*``, so ``types`` are all snapshot types of the SDK. ``events_from`` is
    None for a webhook endpoint of the v1 API, which does not say it.
    """

    id: str
    url: str | None
    status: str
    types: tuple[str, ...]
    has_all: bool
    events_from: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class TypeToMove:
    """An enabled type with its thin form, None if Stripe has none, and which modules exist."""

    snapshot: str
    thin: str | None
    has_snapshot_module: bool
    has_thin_module: bool

    @property
    def next_step(self) -> str:
        """What to do for this type, in words."""
        if self.thin is None:
            return "stays: there is no thin form"
        if not self.has_snapshot_module:
            if self.has_thin_module:
                return "has its thin module: remove the type from the endpoint"
            return "has no module: remove the type, or write the thin module"
        return "is a pair" if self.has_thin_module else "write the thin module"


class NotSnapshotError(Exception):
    """The destination sends thin events: there is nothing to move."""


def fetch_endpoint(client: stripe.StripeClient, endpoint_id: str) -> Endpoint:
    """Return the endpoint of this id. Raises ``NotSnapshotError``, and the SDK's errors."""
    if endpoint_id.startswith(_ENDPOINT):
        old = checked(client.v1.webhook_endpoints.retrieve(endpoint_id))
        return _endpoint(old.id, old.url, old.status, old.enabled_events, None)
    new = fetch(client, endpoint_id)
    if new.event_payload != "snapshot":
        raise NotSnapshotError
    events_from = tuple(new.events_from or ())
    return _endpoint(new.id, url_of(new), new.status, new.enabled_events, events_from)


def _endpoint(
    endpoint_id: str,
    url: str | None,
    status: str,
    enabled: Iterable[str],
    events_from: tuple[str, ...] | None,
) -> Endpoint:
    has_all = WILDCARD in enabled
    types = event_types(Kind.SNAPSHOT) if has_all else frozenset(enabled)
    return Endpoint(endpoint_id, url, status, tuple(sorted(types)), has_all, events_from)


def types_to_move(endpoint: Endpoint, handled: frozenset[str]) -> list[TypeToMove]:
    """Return the types of an ``endpoint``, with their thin forms and modules."""
    thin = {snapshot_type(each): each for each in event_types(Kind.THIN)}
    thin |= {snapshot_type(each): each for each in handled if kind_of(each) is Kind.THIN}
    return [
        TypeToMove(each, thin.get(each), each in handled, thin.get(each) in handled)
        for each in endpoint.types
    ]
