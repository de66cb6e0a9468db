"""Compares an event destination at Stripe with the expected one, and names its problems."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import stripe

from app.formats import mode
from app.stripe_api.catalog import Kind
from app.stripe_api.destinations import (
    ANY_URL,
    WEBHOOK_ENDPOINT,
    WEBHOOK_PATH,
    WILDCARD,
    Comparison,
    Expected,
    Problem,
    enabled,
    same_url,
    sent_kind,
    status_of,
    url_of,
)

if TYPE_CHECKING:
    from stripe.v2.core import EventDestination


def compare(destination: EventDestination, expected: Expected) -> Comparison:
    """Compare ``destination`` with what is ``expected``."""
    problems = tuple(_problems(destination, expected))
    kind = sent_kind(destination)
    if kind is None or kind not in expected.kinds:
        return Comparison(destination, None, problems, (), (), (), ())
    types = expected.types_of(kind)
    matched = enabled(destination, types)
    return Comparison(
        destination,
        kind,
        problems,
        tuple(_warnings(destination, expected)),
        missing=tuple(sorted(types - matched)),
        unhandled=tuple(sorted(frozenset(destination.enabled_events) - types)),
        matched=tuple(sorted(matched)),
    )


def create_arguments(kind: Kind, url: str, *, connected_accounts: bool = False) -> list[str]:
    """Return the arguments of ``flask`` that create a destination for events of this ``kind``."""
    payload = ["--payload", kind.value] if kind is Kind.SNAPSHOT else []
    accounts = ["--connected-accounts"] if connected_accounts else []
    return ["destination", "create", "--url", url, *payload, *accounts]


def enable_arguments(kind: Kind, working: Sequence[Comparison]) -> list[str]:
    """Return the arguments of ``flask`` that enable the missing types of a ``kind``.

    They sync the first ``working`` destination of that kind. Without one they create a destination
    with the URL of the first.
    """
    for each in working:
        if each.kind is kind:
            return ["destination", "sync", each.destination.id]
    return create_arguments(kind, str(url_of(working[0].destination)))


def is_same_release(version: str) -> bool:
    """Return true if the objects of an API ``version`` are those that the SDK's classes describe.

    Versions of one release, such as ``2026-10-28.endive``, have no breaking changes
    (https://docs.stripe.com/webhooks/versioning).
    """
    return version.partition(".")[2] == stripe.api_version.partition(".")[2]


def _warnings(destination: EventDestination, expected: Expected) -> Iterator[Problem]:
    version = destination.snapshot_api_version
    if version and not is_same_release(version):
        yield Problem(
            "api_version",
            f"Its objects are of API version {version}, which cannot be changed, and the classes of"
            f" stripe {stripe.VERSION} describe {stripe.api_version}. Create a destination of that"
            f" version with {_create(destination, expected)}",
        )
    if WILDCARD in destination.enabled_events and expected.types_of(Kind.SNAPSHOT):
        yield Problem(
            "wildcard",
            f"Its event types are {WILDCARD}: Stripe sends all types to it, except those that it"
            " sends only if they are named. Enable exactly the handled types with"
            f" {expected.hint('destination', 'sync', destination.id, '--prune')}",
        )


def _problems(destination: EventDestination, expected: Expected) -> Iterator[Problem]:
    """Yield all problems except those of the event types."""
    create = _create(destination, expected)
    if destination.type != WEBHOOK_ENDPOINT:
        yield Problem(
            "type",
            f"Its type is {destination.type}, which cannot be changed: it never sends to a URL."
            f" Create a webhook endpoint with {create}",
        )
    payload = destination.event_payload
    if payload not in [kind.value for kind in expected.kinds]:
        wanted = " or ".join(sorted(expected.kinds))
        yield Problem(
            "payload",
            f"Its payload is {payload}, which cannot be changed, and no handler module takes"
            f" {payload} events. Create a {wanted} destination with {create}",
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
    if destination.type == WEBHOOK_ENDPOINT:
        yield from _problems_of_url(url_of(destination) or "", destination, expected)


def _create(destination: EventDestination, expected: Expected) -> str:
    """Return the command that creates a destination of the same kind, or of an expected one."""
    url = expected.url or url_of(destination) or ANY_URL
    same = [kind for kind in expected.kinds if kind == destination.event_payload]
    kind = same[0] if same else expected.first_kind
    connected = expected.connected_accounts
    return expected.hint(*create_arguments(kind, url, connected_accounts=connected))


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
