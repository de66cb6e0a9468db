"""The findings about key, clock and event destinations: pure functions of what Stripe answered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from app.formats import few, plural
from app.inbox.findings import DESTINATION, FAILING, OK, WARNING, Finding
from app.stripe_api.catalog import Kind
from app.stripe_api.destination_comparison import compare, enable_arguments
from app.stripe_api.destinations import (
    WEBHOOK_PATH,
    Comparison,
    Expected,
    payload_of,
    plain_hint,
    same_url,
    sent_kind,
    status_of,
    url_of,
)
from app.watch import clock

if TYPE_CHECKING:
    from stripe.v2.core import EventDestination

KEY, CLOCK, TYPES = "key_revoked", "clock_off", "types_drifted"
#: The name of the finding that there is no destination.
NO_DESTINATION = "destination_disabled"


@dataclass(frozen=True, slots=True)
class Found:
    """A finding to record."""

    name: str
    level: str
    text: str
    details: Mapping[str, Any] = field(default_factory=dict)


def never_called(types: frozenset[str], working: Sequence[Comparison]) -> list[str]:
    """Return the types with a handler that no ``working`` destination sends."""
    return sorted(types.difference(*(each.matched for each in working)))


def key(kind: str, forbidden: Sequence[str], before: Finding | None) -> Found:
    """Return what the key may read. A permission that it had, and lost, is a failure."""
    if not forbidden:
        text = f"{kind} that reads events and event destinations"
        return Found(KEY, OK, text, {"forbidden": []})
    text = f"{kind} that may not read {' and '.join(forbidden)} (403)"
    known = set(before.details.get("forbidden", forbidden)) if before else set(forbidden)
    is_lost = not known.issuperset(forbidden)
    details = {"forbidden": sorted(known & set(forbidden) if is_lost else forbidden)}
    return Found(KEY, FAILING if is_lost else WARNING, text, details)


def clock_finding(ahead: float) -> Found:
    """Return how far this machine's clock is from Stripe's."""
    text = clock.difference(ahead)
    if abs(ahead) < clock.WARN_SECONDS:
        return Found(CLOCK, OK, f"the clock is {text}")
    level = FAILING if abs(ahead) >= clock.REFUSED_SECONDS else WARNING
    return Found(CLOCK, level, f"the clock is {text}. {clock.REMEDY}")


def pointing_here(
    destinations: Sequence[EventDestination], public_url: str | None
) -> list[EventDestination]:
    """Return the destinations that send to this service, as far as their URLs tell.

    They send to the host of ``public_url`` if any does, and else to any ``/webhook``.
    """
    urls = [(each, url_of(each) or "") for each in destinations]
    found = [
        (each, url)
        for each, url in urls
        if each.type == "webhook_endpoint" and urlsplit(url).path.endswith(WEBHOOK_PATH)
    ]
    host = urlsplit(public_url).hostname if public_url else None
    ours = [each for each, url in found if urlsplit(url).hostname == host]
    return ours or [each for each, _ in found]


def destinations(
    here: Sequence[EventDestination], expected: Expected, before: Mapping[str, Finding]
) -> Iterator[Found]:
    """Yield a finding for each destination that points here, and one for their types.

    ``before`` are the findings of the last round. With several URLs, one of them can belong to
    another service. So one that is disabled is a warning only, unless all are.
    """
    if not here:
        yield _none(before)
        return
    comparisons = [compare(each, expected) for each in here]
    urls = [str(url_of(each)) for each in here]
    is_sure = all(same_url(urls[0], url) for url in urls)
    is_sure = is_sure or all(each.status != "enabled" for each in here)
    for each in comparisons:
        yield _destination(each, is_sure=is_sure)
    working = [each for each in comparisons if not each.problems]
    if working:
        yield _types(comparisons, expected, before.get(TYPES))


def _none(before: Mapping[str, Finding]) -> Found:
    """Return the finding that no destination is left, which is a failure if there was one."""
    text = f"no event destination sends to a URL that ends in {WEBHOOK_PATH}"
    gone = sorted(name.removeprefix(DESTINATION) for name in before if name.startswith(DESTINATION))
    known = before.get(NO_DESTINATION)
    gone = gone or (list(known.details.get("gone", ())) if known else [])
    if not gone:
        return Found(NO_DESTINATION, WARNING, text)
    return Found(NO_DESTINATION, FAILING, f"{text}: {few(gone)} is gone", {"gone": gone})


def _destination(comparison: Comparison, *, is_sure: bool) -> Found:
    one = comparison.destination
    problems = [each.sentence for each in (*comparison.problems, *comparison.warnings)]
    details = {
        "id": one.id,
        "name": one.name,
        "url": url_of(one),
        "status": one.status,
        "payload": payload_of(one),
        "enabled_events": len(one.enabled_events),
        "missing": list(comparison.missing),
        "unhandled": list(comparison.unhandled),
        "problems": problems,
    }
    name = f"{DESTINATION}{one.id}"
    if one.status != "enabled":
        text = f"event destination {one.id} is {status_of(one)}: Stripe sends nothing. Enable it"
        text += " in the dashboard"
        return Found(name, FAILING if is_sure else WARNING, text, details)
    if problems:
        text = f"event destination {one.id}: {'. '.join(problems)}"
        return Found(name, WARNING, text, details)
    types = plural(len(comparison.matched), "handled type")
    return Found(name, OK, f"{one.id} sends {types} to {url_of(one)}", details)


def _types(comparisons: Sequence[Comparison], expected: Expected, before: Finding | None) -> Found:
    """Return how the types of the handlers differ from those at Stripe.

    A deployment that adds a handler enables its type afterwards. So a type that is missing for the
    first time is a warning.
    """
    working = [each for each in comparisons if not each.problems]
    missing = {
        kind: never_called(expected.types_of(kind), working)
        for kind in Kind
        if not _is_broken(kind, comparisons)
    }
    types = sorted(type_ for some in missing.values() for type_ in some)
    if types:
        text = f"not enabled at Stripe, so their handlers are never called: {few(types)}"
        remedies = [
            plain_hint(*enable_arguments(kind, working)) for kind, some in missing.items() if some
        ]
        known = before.details.get("types", ()) if before else ()
        level = FAILING if set(known) & set(types) else WARNING
        return Found(TYPES, level, f"{text}. Run {' and '.join(remedies)}", {"types": types})
    unhandled = sorted({type_ for each in working for type_ in each.unhandled})
    if unhandled:
        text = f"types without a handler are sent, and go to the fallback: {few(unhandled)}"
        return Found(TYPES, WARNING, text)
    return Found(TYPES, OK, f"{plural(len(expected.types), 'handled type')} are enabled at Stripe")


def _is_broken(kind: Kind, comparisons: Sequence[Comparison]) -> bool:
    """Return true if each destination of a kind has problems, which have findings of their own."""
    own = [each for each in comparisons if sent_kind(each.destination) is kind]
    return bool(own) and all(each.problems for each in own)
