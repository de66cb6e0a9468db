"""What the doctor looks at on Stripe's side: the key, the clock, the destinations, the way back."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar

import stripe
from stripe.v2 import ListObject

from app.cli.destination.compare import (
    WEBHOOK_PATH,
    Comparison,
    Expected,
    compare,
    fetch_all,
    handled_types,
    mode,
    same_url,
    takes_thin,
    url_of,
)
from app.cli.doctor.lines import Level, Line, count, duration, few
from app.cli.stripe_errors import StripeFailedError, checked, explained
from app.errors import InboxUnavailable, StartError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stripe.v2.core import EventDestination

    from app.inbox import Event, Inbox
    from app.processing.registry import Registry
    from app.settings import Settings

T = TypeVar("T")

#: Seconds that the clocks may differ: what is remarkable, and what the service refuses.
STRANGE_SECONDS, REFUSED_SECONDS = 30, 300
#: Seconds between two looks at the inbox while a ping is on its way.
LOOK_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Options:
    """What the doctor was asked: the service's own URL, whether to ping, seconds to wait."""

    url: str | None
    ping: bool
    wait: float


@dataclass(slots=True)
class Account:
    """The account at Stripe, as the API key sees it.

    Without ``registry``, because the handlers cannot be used, event types are not compared.
    """

    client: stripe.StripeClient
    settings: Settings
    registry: Registry | None
    inbox: Inbox
    options: Options
    _ahead: float | None = field(default=None, init=False)
    _lacking: list[str] = field(default_factory=list, init=False)

    def lines(self) -> Iterator[Line]:
        """Yield everything in turn, as far as Stripe lets the key look."""
        try:
            with explained():
                self._try("events", self._list_events)
                found = self._try("event destinations", lambda: fetch_all(self.client))
                here = None if found is None else list(self._pointing_here(found))
        except StripeFailedError as error:
            yield Line(Level.FAIL, "key", error.message, "Nothing at Stripe was looked at")
            return
        yield self._key()
        yield self._clock()
        if here is not None:
            yield from self._destinations(here)

    def _try(self, what: str, call: Callable[[], T]) -> T | None:
        """Make a call; ``None`` when the key may not."""
        try:
            return call()
        except stripe.PermissionError as error:
            self._lacking.append(what)
            self._note_clock(error.headers or {}, time.time(), time.time())
            return None

    def _list_events(self) -> None:
        before = time.time()
        listing: Any = checked(self.client.v2.core.events.list({"limit": 1}), ListObject)
        self._note_clock(listing.last_response.headers, before, time.time())

    def _note_clock(self, headers: Any, before: float, after: float) -> None:
        """Note by how many seconds Stripe's clock is ahead, at least, if the answer tells it."""
        try:
            date = parsedate_to_datetime(headers["date"]).timestamp()
        except (KeyError, ValueError):
            return
        # The date was cut to seconds, and written at some time between the two of ours.
        least, most = date - after, date + 1 - before
        self._ahead = 0.0 if least <= 0 <= most else min(least, most, key=abs)

    def _key(self) -> Line:
        kind = f"a {mode(live=self.settings.livemode)} key"
        if self._lacking:
            text = f"{kind} that may not read {' and '.join(self._lacking)} (403)"
            remedy = "Give it the permission at https://dashboard.stripe.com/apikeys"
            return Line(Level.WARN, "key", text, remedy)
        return Line(Level.OK, "key", f"{kind} that reads events and event destinations")

    def _clock(self) -> Line:
        if self._ahead is None:
            return Line(Level.WARN, "clock", "Stripe's answer told no time", "Check the proxies")
        side = "behind" if self._ahead > 0 else "ahead of"
        text = f"{duration(abs(self._ahead))} {side} Stripe's"
        if abs(self._ahead) < STRANGE_SECONDS:
            return Line(Level.OK, "clock", "as Stripe's")
        level = Level.FAIL if abs(self._ahead) >= REFUSED_SECONDS else Level.WARN
        remedy = f"Synchronize it: from {REFUSED_SECONDS} s on every signature is refused"
        return Line(level, "clock", text, remedy)

    def _pointing_here(self, found: list[EventDestination]) -> Iterator[EventDestination]:
        """Yield the destinations that send to ``--url``, or else to any ``/webhook``."""
        for one in found:
            url = url_of(one)
            if url and one.type == "webhook_endpoint":
                wanted = self.options.url
                if same_url(url, wanted) if wanted else url.endswith(WEBHOOK_PATH):
                    yield one

    def _destinations(self, here: list[EventDestination]) -> Iterator[Line]:
        """Compare those that point here, and ping them."""
        target = self.options.url or f"a URL that ends in {WEBHOOK_PATH}"
        if not here:
            create = f"`flask destination create --url {self.options.url or '...'}`"
            level = Level.FAIL if self.options.url else Level.WARN
            yield Line(level, "destination", f"none sends to {target}", f"Create one: {create}")
            return
        urls = sorted({str(url_of(one)) for one in here})
        if not all(same_url(urls[0], url) for url in urls):
            text = f"{len(urls)} URLs could be this service's: {few(urls)}"
            yield Line(Level.WARN, "destination", text, "Say which one is, with --url")
            return
        yield from self._compared(here)
        if self.options.ping:
            for one in here:
                if takes_thin(one) and one.status == "enabled":
                    yield self._ping(one)

    def _compared(self, here: list[EventDestination]) -> Iterator[Line]:
        types = handled_types(self.registry) if self.registry else frozenset()
        expected = Expected(types, self.settings.livemode, self.options.url)
        comparisons = [compare(one, expected) for one in here]
        for comparison in comparisons:
            yield from self._destination(comparison)
        working = [one for one in comparisons if not one.problems]
        dead = set(types).intersection(*(set(one.missing) for one in working))
        if dead:
            yield Line(
                Level.FAIL,
                "types",
                f"not enabled at Stripe, so their handlers are never called: {few(sorted(dead))}",
                f"`flask destination sync {working[0].destination.id}`"
                if working
                else "See what is wrong with the destinations, above",
            )

    def _destination(self, comparison: Comparison) -> Iterator[Line]:
        one, what = comparison.destination, "destination"
        for problem in comparison.problems:
            yield Line(Level.FAIL, what, f"{one.id}: {problem.sentence}")
        if comparison.unhandled and self.registry:
            text = f"{one.id} sends what has no handler: {few(list(comparison.unhandled))}"
            remedy = f"The fallback takes them, or `flask destination sync {one.id} --prune`"
            yield Line(Level.WARN, what, text, remedy)
        elif not comparison.problems:
            types = count(len(comparison.matched), "handled type") if self.registry else "events"
            yield Line(Level.OK, what, f"{one.id} sends {types} to {url_of(one)}")

    def _ping(self, one: EventDestination) -> Line:
        """Have Stripe send a ping, and wait for it to come to this inbox."""
        begin = time.monotonic()
        try:
            with explained():
                event_id = checked(self.client.v2.core.event_destinations.ping(one.id)).id
            event = self._wait(event_id, time.monotonic() + self.options.wait)
        except StripeFailedError as error:
            forbidden = isinstance(error.__cause__, stripe.PermissionError)
            level = Level.WARN if forbidden else Level.FAIL
            return Line(level, "ping", f"{one.id}: {error.message}", "--no-ping leaves it out")
        except (StartError, InboxUnavailable):
            return Line(Level.FAIL, "ping", f"{one.id}: the inbox cannot be read", "See above")
        return self._came(one, event, time.monotonic() - begin)

    def _wait(self, event_id: str, deadline: float) -> Event | None:
        """Look at the inbox until the event is there and has been run, or the time is over."""
        while True:
            event = self.inbox.administration.find(event_id)
            if (event and event.outcome) or time.monotonic() >= deadline:
                return event
            time.sleep(LOOK_SECONDS)

    def _came(self, one: EventDestination, event: Event | None, seconds: float) -> Line:
        wait = f"{self.options.wait:g} s"
        if event is None:
            return Line(
                Level.FAIL,
                "ping",
                f"{one.id}: a ping did not come to this inbox within {wait}",
                f"Does the service run and reach this inbox, does {url_of(one)} lead to it, and is"
                " the destination's signing secret in STRIPE_WEBHOOK_SECRET? Stripe's Workbench"
                " shows what was answered",
            )
        if not event.outcome:
            text = f"{one.id}: a ping came, and was not run within {wait}"
            queue = self.settings.processing == "queue"
            remedy = "Start a worker: `flask worker`" if queue else "Its callback still runs"
            return Line(Level.WARN, "ping", text, remedy)
        if event.outcome != "handled":
            text = f"{one.id}: a ping came, and became {event.outcome}"
            return Line(Level.WARN, "ping", text, f"See the service's log for {event.id}")
        return Line(Level.OK, "ping", f"{one.id}: a ping came and was handled in {seconds:.1f} s")
