"""Comparison of an event destination at Stripe with the handlers and settings."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from stripe.v2 import ListObject

from app.formats import mode
from app.stripe_api.errors import checked

if TYPE_CHECKING:
    import stripe
    from stripe.v2.core import EventDestination

#: The path at which the service takes deliveries.
WEBHOOK_PATH = "/webhook"

#: The URL of a service in a hint, if no other is known.
ANY_URL = "https://your.host/webhook"

#: The entry for all types in a snapshot destination. Thin destinations have no such entry.
WILDCARD = "*"


def plain_hint(*arguments: str) -> str:
    """Return a command of ``flask`` for a sentence, in backquotes."""
    return f"`{shlex.join(['flask', *arguments])}`"


@dataclass(frozen=True, slots=True)
class Expected:
    """The expected state of a destination, from the code and the options of a command.

    Without ``url`` any URL that ends in ``/webhook`` is accepted. With ``connected_accounts`` the
    destination must send the events of connected accounts. ``hint`` writes a command of ``flask``
    for a sentence.
    """

    types: frozenset[str]
    livemode: bool
    url: str | None = None
    connected_accounts: bool = False
    hint: Callable[..., str] = plain_hint


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem of a destination: a keyword for programs, a sentence for people."""

    what: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """A destination at Stripe, and its differences from the expected state.

    ``missing`` types have a handler and are not enabled. ``unhandled`` types are enabled and have
    no handler. ``matched`` types are both. All three are empty for a destination that is not thin.
    """

    destination: EventDestination
    problems: tuple[Problem, ...]
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


def compare(destination: EventDestination, expected: Expected) -> Comparison:
    """Compare ``destination`` with what is ``expected``."""
    problems = tuple(_problems(destination, expected))
    if not takes_thin(destination):
        return Comparison(destination, problems, (), (), ())
    enabled = frozenset(destination.enabled_events)
    missing = frozenset() if WILDCARD in enabled else expected.types - enabled
    return Comparison(
        destination,
        problems,
        missing=tuple(sorted(missing)),
        unhandled=tuple(sorted(enabled - expected.types)),
        matched=tuple(sorted(enabled & expected.types)),
    )


def takes_thin(destination: EventDestination) -> bool:
    """Return true if it sends thin notifications to a URL. Neither can be changed at Stripe."""
    return destination.type == "webhook_endpoint" and destination.event_payload == "thin"


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


def _problems(destination: EventDestination, expected: Expected) -> Iterator[Problem]:
    """Yield all problems except those of the event types."""
    create = _create(destination, expected)
    if destination.type != "webhook_endpoint":
        yield Problem(
            "type",
            f"Its type is {destination.type}, which cannot be changed: it never sends to a URL."
            f" Create a webhook endpoint with {create}",
        )
    if destination.event_payload != "thin":
        yield Problem(
            "payload",
            f"Its payload is {destination.event_payload}, which the service refuses and which"
            f" cannot be changed. Create a thin destination with {create}",
        )
    if destination.status != "enabled":
        yield Problem(
            "status",
            f"It is {status_of(destination)}: Stripe sends nothing. Enable it in the dashboard",
        )
    if destination.livemode != expected.livemode:
        yield Problem(
            "mode",
            f"It is in {mode(live=destination.livemode)} mode, and STRIPE_API_KEY is a"
            f" {mode(live=expected.livemode)} key: its events are recorded and not run",
        )
    yield from _problems_of_events_from(destination, expected)
    if destination.type == "webhook_endpoint":
        yield from _problems_of_url(url_of(destination) or "", destination, expected)


def _create(destination: EventDestination, expected: Expected) -> str:
    """Return the command that creates the expected destination."""
    url = expected.url or url_of(destination) or ANY_URL
    accounts = ["--connected-accounts"] if expected.connected_accounts else []
    return expected.hint("destination", "create", "--url", url, *accounts)


def _problems_of_events_from(
    destination: EventDestination, expected: Expected
) -> Iterator[Problem]:
    events_from, create = destination.events_from or [], _create(destination, expected)
    if expected.connected_accounts and not any("accounts" in one for one in events_from):
        yield Problem(
            "events_from",
            f"It sends events of {', '.join(events_from) or 'no account'}, which cannot be"
            " changed, and not of connected accounts. Create a destination for them with"
            f" {create}",
        )
    elif not events_from:
        yield Problem(
            "events_from",
            f"It sends events of no account. Create another one with {create}",
        )


def _problems_of_url(
    url: str, destination: EventDestination, expected: Expected
) -> Iterator[Problem]:
    if expected.url and not same_url(url, expected.url):
        yield Problem(
            "url", f"It sends to {url}, not to {expected.url}. Change it in the dashboard"
        )
    elif not expected.url and not urlsplit(url).path.endswith(WEBHOOK_PATH):
        yield Problem(
            "url",
            f"It sends to {url}, and the service takes deliveries at {WEBHOOK_PATH}. Change it in"
            " the dashboard. If a proxy rewrites the path, confirm the URL with --url",
        )
    if destination.livemode and not url.startswith("https:"):
        yield Problem("url", f"It sends to {url}, which is not https. Change it in the dashboard")
