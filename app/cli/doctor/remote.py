"""The checks at Stripe: key, clock, event destinations, ping."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import stripe
from stripe.v2 import ListObject

from app.cli.doctor.lines import Level, Line
from app.cli.hints import hint
from app.cli.output import few, plural
from app.cli.stripe_errors import StripeFailedError, checked, explained
from app.errors import InboxUnavailable
from app.states import SUCCESSES
from app.stripe_api.catalog import Kind
from app.stripe_api.destination_comparison import compare, create_arguments, enable_arguments
from app.stripe_api.destinations import (
    ANY_URL,
    WEBHOOK_PATH,
    WILDCARD,
    Comparison,
    Expected,
    fetch_all,
    same_url,
    sent_kind,
    url_of,
)
from app.watch import clock
from app.watch.at_stripe import never_called

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stripe.v2.core import EventDestination

    from app.inbox import Event, Inbox
    from app.processing.registry import Registry
    from app.settings import Settings

T = TypeVar("T")

#: Seconds between two queries of the inbox for a ping.
POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Options:
    """The options of the command: the URL of the service, and a ping with seconds to wait."""

    url: str | None
    ping: bool
    wait: float


@dataclass(slots=True)
class Account:
    """The account at Stripe, as the API key sees it.

    ``registry`` is None if a handler module is wrong. Event types are not compared then.
    """

    client: stripe.StripeClient
    settings: Settings
    registry: Registry | None
    inbox: Inbox
    options: Options
    _ahead: float | None = field(default=None, init=False)
    _forbidden: list[str] = field(default_factory=list, init=False)

    def lines(self) -> Iterator[Line]:
        """Yield the lines of all checks that the permissions of the key allow."""
        try:
            with explained():
                self._try("events", self._list_events)
                if self.registry and self.registry.types_of(Kind.SNAPSHOT):
                    self._try("snapshot events", self._list_snapshots)
                found = self._try("event destinations", lambda: fetch_all(self.client))
                here = None if found is None else list(self._pointing_here(found))
        except StripeFailedError as error:
            yield Line(Level.FAIL, "key", error.message, "Nothing else at Stripe was checked")
            return
        yield self._key()
        yield self._clock()
        if here is not None:
            yield from self._destinations(here)

    def _try(self, what: str, call: Callable[[], T]) -> T | None:
        """Return the result of a call, or None if the key has no permission."""
        try:
            return call()
        except stripe.PermissionError as error:
            self._forbidden.append(what)
            self._note_clock(error.headers or {}, time.time(), time.time())
            return None

    def _list_events(self) -> None:
        before = time.time()
        listing: Any = checked(self.client.v2.core.events.list({"limit": 1}), ListObject)
        self._note_clock(listing.last_response.headers, before, time.time())

    def _list_snapshots(self) -> None:
        checked(self.client.v1.events.list({"limit": 1}), stripe.ListObject)

    def _note_clock(self, headers: Any, before: float, after: float) -> None:
        """Note by how many seconds, at least, Stripe's clock is ahead, from the ``Date`` header."""
        ahead = clock.seconds_ahead(headers, before, after)
        self._ahead = self._ahead if ahead is None else ahead

    def _key(self) -> Line:
        kind = self.settings.key_kind
        if self._forbidden:
            text = f"{kind} that may not read {' and '.join(self._forbidden)} (403)"
            remedy = "Give it the permission at https://dashboard.stripe.com/apikeys"
            return Line(Level.WARN, "key", text, remedy)
        return Line(Level.OK, "key", f"{kind} that reads events and event destinations")

    def _clock(self) -> Line:
        if self._ahead is None:
            return Line(Level.WARN, "clock", "Stripe's answer has no date", "Check your proxies")
        text = clock.difference(self._ahead)
        if abs(self._ahead) < clock.WARN_SECONDS:
            return Line(Level.OK, "clock", text)
        level = Level.FAIL if abs(self._ahead) >= clock.REFUSED_SECONDS else Level.WARN
        return Line(level, "clock", text, clock.REMEDY)

    def _pointing_here(self, found: list[EventDestination]) -> Iterator[EventDestination]:
        """Yield the destinations that send to ``--url``, or else to any ``/webhook``."""
        for one in found:
            url = url_of(one)
            if url and one.type == "webhook_endpoint":
                wanted = self.options.url
                if same_url(url, wanted) if wanted else url.endswith(WEBHOOK_PATH):
                    yield one

    def _destinations(self, here: list[EventDestination]) -> Iterator[Line]:
        """Compare and ping the destinations that point here."""
        target = self.options.url or f"a URL that ends in {WEBHOOK_PATH}"
        if not here:
            kind = self._expected().first_kind
            create = hint(*create_arguments(kind, self.options.url or ANY_URL))
            level = Level.FAIL if self.options.url else Level.WARN
            yield Line(level, "destination", f"none sends to {target}", f"Create one: {create}")
            return
        urls = sorted({str(url_of(one)) for one in here})
        if not all(same_url(urls[0], url) for url in urls):
            text = f"{len(urls)} URLs could be this service's: {few(urls)}"
            yield Line(Level.WARN, "destination", text, "Select one with --url")
            return
        yield from self._compared(here)
        if self.options.ping:
            for one in here:
                # Stripe's ping is a thin event.
                if sent_kind(one) is Kind.THIN and one.status == "enabled":
                    yield self._ping(one)

    def _expected(self) -> Expected:
        """Return the expected state of the destinations. Without a registry no type is expected."""
        livemode, url = self.settings.livemode, self.options.url
        if self.registry is None:
            return Expected(frozenset(), livemode, url, hint=hint)
        types, kinds = self.registry.handled_types, self.registry.kinds
        return Expected(types, livemode, url, hint=hint, kinds=kinds)

    def _compared(self, here: list[EventDestination]) -> Iterator[Line]:
        expected = self._expected()
        comparisons = [compare(one, expected) for one in here]
        for comparison in comparisons:
            yield from self._destination(comparison)
        working = [one for one in comparisons if not one.problems]
        for kind in Kind:
            if dead := never_called(expected.types_of(kind), working):
                text = f"not enabled at Stripe, so their handlers are never called: {few(dead)}"
                yield Line(Level.FAIL, "types", text, _remedy(kind, comparisons, working))

    def _destination(self, comparison: Comparison) -> Iterator[Line]:
        one, what = comparison.destination, "destination"
        for problem in comparison.problems:
            yield Line(Level.FAIL, what, f"{one.id}: {problem.sentence}")
        for warning in comparison.warnings:
            yield Line(Level.WARN, what, f"{one.id}: {warning.sentence}")
        unhandled = [each for each in comparison.unhandled if each != WILDCARD]
        if unhandled and self.registry:
            text = f"{one.id} sends types without a handler: {few(unhandled)}"
            remedy = f"They go to the fallback, or {hint('destination', 'sync', one.id, '--prune')}"
            yield Line(Level.WARN, what, text, remedy)
        elif not comparison.problems:
            types = plural(len(comparison.matched), "handled type") if self.registry else "events"
            yield Line(Level.OK, what, f"{one.id} sends {types} to {url_of(one)}")

    def _ping(self, one: EventDestination) -> Line:
        """Let Stripe send a ping, and wait until this inbox has it."""
        begin = time.monotonic()
        try:
            with explained():
                event_id = checked(self.client.v2.core.event_destinations.ping(one.id)).id
            event = self._wait(event_id, time.monotonic() + self.options.wait)
        except StripeFailedError as error:
            forbidden = isinstance(error.__cause__, stripe.PermissionError)
            level = Level.WARN if forbidden else Level.FAIL
            return Line(level, "ping", f"{one.id}: {error.message}", "--no-ping skips the ping")
        except InboxUnavailable:
            return Line(Level.FAIL, "ping", f"{one.id}: the inbox cannot be read", "See above")
        return self._ping_line(one, event, time.monotonic() - begin)

    def _wait(self, event_id: str, deadline: float) -> Event | None:
        """Return the event when it has run, or its state, or None, at the ``deadline``."""
        while True:
            event = self.inbox.administration.find(event_id)
            if (event and event.outcome) or time.monotonic() >= deadline:
                return event
            time.sleep(POLL_SECONDS)

    def _ping_line(self, one: EventDestination, event: Event | None, seconds: float) -> Line:
        wait = f"{self.options.wait:g} s"
        if event is None:
            return Line(
                Level.FAIL,
                "ping",
                f"{one.id}: a ping did not arrive in this inbox within {wait}",
                f"Is the service running with this inbox, does {url_of(one)} lead to it, and is the"
                " signing secret of the destination in STRIPE_WEBHOOK_SECRET? Stripe's Workbench"
                " shows the answer",
            )
        if not event.outcome:
            text = f"{one.id}: a ping arrived, and was not run within {wait}"
            queue = self.settings.is_queue
            remedy = (
                f"Start a worker: {hint('worker')}" if queue else "Its callback is still running"
            )
            return Line(Level.WARN, "ping", text, remedy)
        if event.outcome not in SUCCESSES:
            text = f"{one.id}: a ping arrived, with the outcome {event.outcome}"
            return Line(Level.WARN, "ping", text, f"See the log of the service for {event.id}")
        return Line(Level.OK, "ping", f"{one.id}: a ping came and was handled in {seconds:.1f} s")


def _remedy(kind: Kind, comparisons: list[Comparison], working: list[Comparison]) -> str:
    """Return how the types of a kind get enabled at one of the destinations that point here."""
    has_own = any(sent_kind(each.destination) is kind for each in comparisons)
    if has_own and not any(each.kind is kind for each in working):
        return "Correct the destinations first, see above"
    command = hint(*enable_arguments(kind, working or comparisons))
    return command if has_own else f"Create a {kind} destination: {command}"
