"""The regular checks, and their findings in the inbox."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from datetime import datetime

import stripe
import structlog
from stripe.v2.core import EventDestination

from app.inbox import Inbox
from app.inbox.findings import FAILING, OK, WARNING, Finding
from app.processing.registry import Registry
from app.settings import Settings
from app.stripe_api.destinations import Expected, fetch_all, takes_thin
from app.stripe_api.errors import StripeFailed, explained
from app.watch import at_stripe, failing, gap
from app.watch.at_stripe import Found
from app.watch.clock import seconds_ahead

log = structlog.get_logger(__name__)

API = "stripe_api"
#: The leader of a worker that reconciles: it closes gaps itself.
RECONCILER = "reconcile"


class Watch:
    """Checks key, clock, destinations and deliveries. One process of an inbox does it at a time."""

    def __init__(
        self, settings: Settings, registry: Registry, inbox: Inbox, client: stripe.StripeClient
    ) -> None:
        """Take the services. The ``client`` keeps to the rate limit that all processes share."""
        self._settings = settings
        self._registry = registry
        self._inbox = inbox
        self._client = client

    def run(self) -> None:
        """Check everything once, and record the findings. Raises ``InboxUnavailable``."""
        before = {each.name: each for each in self._inbox.findings.list()}
        found = {each.name: each for each in self._look(before)}
        for each in found.values():
            self._inbox.findings.record(each.name, each.level, each.text, each.details)
        if found[API].level == OK:
            self._remove_gone(before, found)

    def _look(self, before: Mapping[str, Finding]) -> Iterator[Found]:
        facts = self._inbox.alert_facts
        known = before.get(gap.NAME), before.get(failing.NAME)
        yield failing.finding(facts.answers(), facts.now(), *known)
        try:
            with explained():
                yield from self._look_at_stripe(before)
        except StripeFailed as error:
            is_refused = isinstance(error.__cause__, stripe.AuthenticationError)
            if is_refused:
                yield Found(at_stripe.KEY, FAILING, str(error))
            log.warning("watch_failed", reason=str(error))
            yield Found(API, WARNING, str(error))
        else:
            yield Found(API, OK, "Stripe's API answers")

    def _look_at_stripe(self, before: Mapping[str, Finding]) -> Iterator[Found]:
        forbidden = []
        here: list[EventDestination] = []
        begin = time.time()
        dates: list[Mapping[str, str]] = []
        try:
            found = fetch_all(self._client, dates.append)
        except stripe.PermissionError as error:
            forbidden.append("event destinations")
            dates.append(error.headers or {})
        else:
            here = at_stripe.pointing_here(found, self._settings.public_url)
            expected = Expected(self._registry.handled_types, self._settings.livemode)
            yield from at_stripe.destinations(here, expected, before)
        ahead = seconds_ahead(dates[0], begin, time.time())
        if ahead is not None:
            yield at_stripe.clock_finding(ahead)
        try:
            yield from self._gap(here)
        except stripe.PermissionError:
            forbidden.append("events")
        yield at_stripe.key(self._settings.key_kind, forbidden, before.get(at_stripe.KEY))

    def _gap(self, here: list[EventDestination]) -> Iterator[Found]:
        """Yield the gap of the types that a destination sends here, for each account."""
        reconciliation = self._inbox.reconciliation
        sending = [each for each in here if each.status == "enabled" and takes_thin(each)]
        own = [each for each in sending if {*(each.events_from or [])} != {"@accounts"}]
        connected = [each for each in sending if {*(each.events_from or [])} - {"@self"}]
        sources = [self._source("", own)]
        if connected:
            livemode = self._settings.livemode
            accounts = reconciliation.recent_accounts(gap.ACCOUNTS, livemode=livemode)
            sources += [self._source(each, connected) for each in accounts]
        sources = [each for each in sources if each.types]
        if sources and not reconciliation.has_leader(RECONCILER):
            yield gap.find(self._client, reconciliation, sources)

    def _source(self, account: str, sending: list[EventDestination]) -> gap.Source:
        """Return the handled types that these destinations send for an account, and since when."""
        sent = {type_ for each in sending for type_ in each.enabled_events}
        begins = [datetime.fromisoformat(each.created).timestamp() for each in sending]
        types = tuple(sorted(self._registry.handled_types & sent))
        return gap.Source(account, types, min(begins, default=0.0))

    def _remove_gone(self, before: Mapping[str, Finding], found: Mapping[str, Found]) -> None:
        """Remove the findings of destinations that are gone, and those that no longer apply."""
        if not any(each.startswith(at_stripe.NO_DESTINATION) for each in found):
            return  # the key may not read them
        kept = {at_stripe.KEY, at_stripe.CLOCK, failing.NAME}
        for name in before.keys() - found.keys() - kept:
            self._inbox.findings.remove(name)
