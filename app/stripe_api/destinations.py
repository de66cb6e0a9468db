"""Comparison of an event destination at Stripe with the handlers and settings."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from stripe.v2 import ListObject

from app.stripe_api.catalog import Kind, kind_of
from app.stripe_api.errors import checked

if TYPE_CHECKING:
    import stripe
    from stripe.v2.core import EventDestination

#: The path at which the service takes deliveries.
WEBHOOK_PATH = "/webhook"

#: The URL of a service in a hint, if no other is known.
ANY_URL = "https://your.host/webhook"

#: The type of a destination that sends to a URL.
WEBHOOK_ENDPOINT = "webhook_endpoint"

#: The entry for all types in a snapshot destination, except those that Stripe sends only if they
#: are named. Thin destinations have no such entry.
WILDCARD = "*"


def plain_hint(*arguments: str) -> str:
    """Return a command of ``flask`` for a sentence, in backquotes."""
    return f"`{shlex.join(['flask', *arguments])}`"


@dataclass(frozen=True, slots=True)
class Expected:
    """The expected state of a destination, from the code and the options of a command.

    ``types`` are those with a handler module, of both kinds. Without ``url`` any URL that ends in
    ``/webhook`` is accepted. With ``connected_accounts`` the destination must send the events of
    connected accounts. ``hint`` writes a command of ``flask`` for a sentence. A destination must
    send events of one of these ``kinds``.
    """

    types: frozenset[str]
    livemode: bool
    url: str | None = None
    connected_accounts: bool = False
    hint: Callable[..., str] = plain_hint
    kinds: frozenset[Kind] = frozenset(Kind)

    @property
    def first_kind(self) -> Kind:
        """The kind of a new destination, if any of the ``kinds`` will do: thin if possible."""
        return Kind.THIN if Kind.THIN in self.kinds else Kind.SNAPSHOT

    def types_of(self, kind: Kind) -> frozenset[str]:
        """Return the types of one kind with a handler module."""
        return frozenset(each for each in self.types if kind_of(each) is kind)


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem of a destination: a keyword for programs, a sentence for people."""

    what: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """A destination at Stripe, and its differences from the expected state.

    Its types are compared with the handled types of its own ``kind``. ``missing`` types have a
    handler and are not enabled. ``unhandled`` types are enabled and have no handler. ``matched``
    types are both. All three are empty, and ``kind`` is None, for a destination whose events are
    not expected. ``warnings`` need no change.
    """

    destination: EventDestination
    kind: Kind | None
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    missing: tuple[str, ...]
    unhandled: tuple[str, ...]
    matched: tuple[str, ...]

    @property
    def differs(self) -> bool:
        """True if the destination has to be changed."""
        return bool(self.problems or self.missing or self.unhandled)


def fetch(client: stripe.StripeClient, destination_id: str) -> EventDestination:
    """Return one destination with its URL. Raises the SDK's errors."""
    return checked(
        client.v2.core.event_destinations.retrieve(
            destination_id, {"include": ["webhook_endpoint.url"]}
        )
    )


def fetch_all(
    client: stripe.StripeClient,
    note_headers: Callable[[Mapping[str, str]], object] = lambda _: None,
) -> list[EventDestination]:
    """Return all destinations with their URLs. Raises the SDK's errors.

    Each is returned once, even if the list changes while its pages are read. ``note_headers`` gets
    the headers of the first answer.
    """
    service = client.v2.core.event_destinations
    listing = checked(service.list({"include": ["webhook_endpoint.url"]}), ListObject)
    note_headers(cast("Any", listing).last_response.headers)
    found: dict[str, EventDestination] = {}
    for one in listing.auto_paging_iter():
        found.setdefault(one.id, one)
    return list(found.values())


def sent_kind(destination: EventDestination) -> Kind | None:
    """Return the kind of the events that it sends to a URL, or None. It cannot be changed."""
    if destination.type != WEBHOOK_ENDPOINT:
        return None
    return next((kind for kind in Kind if kind == destination.event_payload), None)


def enabled(destination: EventDestination, types: frozenset[str]) -> frozenset[str]:
    """Return which of these ``types`` of its kind a destination has enabled."""
    found = frozenset(destination.enabled_events)
    return types if WILDCARD in found else types & found


def url_of(destination: EventDestination) -> str | None:
    """Return its URL, or None if it does not send to a URL."""
    endpoint = destination.webhook_endpoint
    return endpoint.url if endpoint else None


def same_url(one: str, other: str) -> bool:
    """Return true if two URLs are the same address. The host is case-insensitive."""
    return _normal(one) == _normal(other)


def _normal(url: str) -> tuple[str, str, str, str]:
    parts = urlsplit(url)
    return parts.scheme.lower(), parts.netloc.lower(), parts.path.rstrip("/"), parts.query


def status_of(destination: EventDestination) -> str:
    """Return its status, with Stripe's reason if it is disabled."""
    details = destination.status_details
    disabled = details.disabled if details else None
    return f"{destination.status} ({disabled.reason})" if disabled else destination.status


def payload_of(destination: EventDestination) -> str:
    """Return its payload style, with the API version of snapshot events."""
    version = destination.snapshot_api_version
    payload = destination.event_payload
    return f"{payload} ({version})" if version else payload
