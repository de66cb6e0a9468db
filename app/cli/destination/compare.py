"""An event destination at Stripe, beside the code that it is to feed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from stripe.v2 import ListObject

from app.cli.stripe_errors import checked

if TYPE_CHECKING:
    from collections.abc import Iterator

    import stripe
    from stripe.v2.core import EventDestination

    from app.processing.registry import Registry

#: Where the service takes deliveries (``app/web/webhook.py``).
WEBHOOK_PATH = "/webhook"
#: What a snapshot destination has in the place of all its types. Thin ones have no such thing.
WILDCARD = "*"


@dataclass(frozen=True, slots=True)
class Expected:
    """What the code, and who calls the command, expect of a destination.

    Without ``url`` any that ends in ``/webhook`` will do. ``connected_accounts``: whether it has to
    bring the events of connected accounts.
    """

    types: frozenset[str]
    livemode: bool
    url: str | None = None
    connected_accounts: bool = False


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a destination: a word for programs, a sentence for people."""

    what: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """A destination as Stripe has it, and where it differs from what is expected.

    ``missing``: handled here, and not enabled there. ``unhandled``: enabled there, and without a
    handler here. ``matched``: both. None of them is told of a destination that is not thin.
    """

    destination: EventDestination
    problems: tuple[Problem, ...]
    missing: tuple[str, ...]
    unhandled: tuple[str, ...]
    matched: tuple[str, ...]

    @property
    def differs(self) -> bool:
        """Whether anything has to be done."""
        return bool(self.problems or self.missing or self.unhandled)


def handled_types(registry: Registry) -> frozenset[str]:
    """Return the types that have a handler module, those that ``EVENT_TYPE`` declares included."""
    return frozenset(module.event_type for module in registry.modules)


def fetch(client: stripe.StripeClient, destination_id: str) -> EventDestination:
    """Return one destination with its URL. Raises the SDK's errors."""
    return checked(
        client.v2.core.event_destinations.retrieve(
            destination_id, {"include": ["webhook_endpoint.url"]}
        )
    )


def fetch_all(client: stripe.StripeClient) -> list[EventDestination]:
    """Return all destinations with their URLs. Raises the SDK's errors.

    Each comes once, also when pages shift because the list changes while it is read.
    """
    service = client.v2.core.event_destinations
    listing = checked(service.list({"include": ["webhook_endpoint.url"]}), ListObject)
    found: dict[str, EventDestination] = {}
    for one in listing.auto_paging_iter():
        found.setdefault(one.id, one)
    return list(found.values())


def compare(destination: EventDestination, expected: Expected) -> Comparison:
    """Say where ``destination`` differs from what is ``expected``."""
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
    """Whether it sends thin notifications to a URL. Neither can be changed at Stripe."""
    return destination.type == "webhook_endpoint" and destination.event_payload == "thin"


def url_of(destination: EventDestination) -> str | None:
    """Return where it sends to, if it sends to a URL."""
    endpoint = destination.webhook_endpoint
    return endpoint.url if endpoint else None


def same_url(one: str, other: str) -> bool:
    """Whether two URLs are the same address, whatever the case of the host."""
    return _normal(one) == _normal(other)


def _normal(url: str) -> tuple[str, str, str, str]:
    parts = urlsplit(url)
    return parts.scheme.lower(), parts.netloc.lower(), parts.path.rstrip("/"), parts.query


def mode(*, live: bool) -> str:
    """Return the name of a mode."""
    return "live" if live else "test"


def status_of(destination: EventDestination) -> str:
    """Return its status, with Stripe's reason when it is disabled."""
    details = destination.status_details
    disabled = details.disabled if details else None
    return f"{destination.status} ({disabled.reason})" if disabled else destination.status


def _problems(destination: EventDestination, expected: Expected) -> Iterator[Problem]:
    """Yield all that is wrong, but for the event types."""
    if destination.type != "webhook_endpoint":
        yield Problem(
            "type",
            f"It is of type {destination.type}, which cannot be changed: it never sends to a URL."
            " Create a webhook endpoint with `flask destination create`",
        )
    if destination.event_payload != "thin":
        yield Problem(
            "payload",
            f"Its payload is {destination.event_payload}, which cannot be changed, and which the"
            " service refuses. Create a thin one with `flask destination create`",
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


def _problems_of_events_from(
    destination: EventDestination, expected: Expected
) -> Iterator[Problem]:
    events_from = destination.events_from or []
    if expected.connected_accounts and not any("accounts" in one for one in events_from):
        yield Problem(
            "events_from",
            f"It brings events from {', '.join(events_from) or 'nobody'}, which cannot be changed,"
            " and none of connected accounts. Create another one with"
            " `flask destination create --connected-accounts`",
        )
    elif not events_from:
        yield Problem("events_from", "It brings events from nobody. Create another one")


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
            " the dashboard, or, if a proxy rewrites the path, say with --url that it is right",
        )
    if destination.livemode and not url.startswith("https:"):
        yield Problem("url", f"It sends to {url}, which is not https. Change it in the dashboard")
