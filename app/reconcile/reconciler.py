"""Finds the events that Stripe has and the inbox lacks, and backfills them.

Stripe has one list of thin events and one of snapshot events. The inbox decides which events are
missing. Only the list of snapshot events has a filter for undelivered ones. It would hide events
that Stripe never sent, because no enabled destination had their type. It would also hide those that
were answered with 2xx and are not in the inbox, for example after a restore from a backup.

The lists are read in windows, for each account. A missing event is recorded as if it had been
delivered, and run as its mode demands.

Each account and event type has a watermark: up to it, Stripe's list was read. A type that is
handled from today on begins at its own watermark. A watermark advances only when all missing events
before it are recorded. So a run may be interrupted at any time, and the next run continues.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import TypeVar

import stripe
import structlog

from app.errors import CallbackFailed, Deferred, InboxUnavailable
from app.inbox import Claim, Inbox, NewEvent
from app.processing.registry import Registry
from app.processing.rescuer import mark_poison_dead
from app.processing.runner import Runner
from app.reconcile import windows
from app.reconcile.gap import Gap, error_kind, report
from app.reconcile.listing import ListedEvent, list_events
from app.reconcile.windows import Window
from app.runtime.process_name import new_process_name
from app.settings import Settings
from app.states import Outcome
from app.stripe_api.catalog import Kind

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: Events that the inbox is asked about at once.
ASK_AT_ONCE = 500

#: A leader that stops renewing its leadership is replaced after this many seconds at the earliest.
MIN_LEADER_SECONDS = 60.0

#: Each backfilled event is due this many seconds before the next one, which keeps their order.
ORDER_GAP_SECONDS = 1e-6

#: Errors of one account: it is not connected, or the key may not read it.
ACCOUNT_ERRORS = (stripe.PermissionError, stripe.InvalidRequestError)


class _StoppedError(Exception):
    """The process is stopping, or another process is the leader."""


class Reconciler:
    """Compares Stripe's list with the inbox, and closes the gap."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        inbox: Inbox,
        client: stripe.StripeClient,
        runner: Runner,
    ) -> None:
        """Take the services. The types of the modules in ``registry`` are reconciled."""
        self._livemode = settings.livemode
        self._is_queue = settings.is_queue
        self._registry = registry
        self._reconciliation = inbox.reconciliation
        self._claims = inbox.claims
        self._deliveries = inbox.deliveries
        self._client = client
        self._runner = runner
        self.on_missing: Callable[[int], object] = lambda _number: None
        """Called with the number of missing events that were recorded."""

    @property
    def types(self) -> list[str]:
        """The event types that are reconciled: those with a module of their own."""
        return sorted(self._registry.handled_types)

    def find(
        self,
        accounts: Sequence[str],
        since: float | None = None,
        *,
        keep_alive: Callable[[], object] = lambda: None,
    ) -> Gap:
        """Return what is missing, for the account of the key and each of the ``accounts``.

        Begins at ``since``, in seconds since the epoch, or at the watermarks. Changes nothing.
        Calls ``keep_alive`` again and again, which may raise. Raises ``InboxUnavailable``, and
        ``stripe.StripeError`` unless it concerns only one of several accounts.
        """
        gap = Gap()
        missing: dict[str, ListedEvent] = {}
        for context in dict.fromkeys(["", *accounts]):
            planned = self._plan(context, since)
            try:
                for window in planned:
                    self._read(window, gap, missing, keep_alive)
            except ACCOUNT_ERRORS as error:
                if not accounts:
                    raise
                gap.failed[context] = error
            else:
                gap.windows += planned
        gap.missing = sorted(missing.values(), key=lambda each: (each.created, each.event.id))
        return gap

    def _plan(self, context: str, since: float | None) -> list[Window]:
        """Return the windows of both lists for one account."""
        watermarks = self._reconciliation.watermarks(livemode=self._livemode, context=context)
        return [
            window
            for kind in Kind
            for window in windows.plan(
                context, sorted(self._registry.types_of(kind)), watermarks, since
            )
        ]

    def _read(
        self,
        window: Window,
        gap: Gap,
        missing: dict[str, ListedEvent],
        keep_alive: Callable[[], object],
    ) -> None:
        """Read one window, and add the events that the inbox lacks to ``missing``."""
        for listed in _chunks(list_events(self._client, window), ASK_AT_ONCE):
            keep_alive()
            gap.listed += len(listed)
            events = {each.event.id: each for each in listed}
            known = self._reconciliation.known(list(events))
            missing |= {id_: each for id_, each in events.items() if id_ not in known}

    def record(self, gap: Gap) -> int:
        """Record the missing events, then advance the watermarks. Returns the number recorded.

        An event that was delivered since ``find`` keeps its state.
        """
        count = len(gap.missing)
        recorded = sum(
            self._backfill(each.event, (count - place) * ORDER_GAP_SECONDS)
            for place, each in enumerate(gap.missing)
        )
        self.on_missing(recorded)
        for window in gap.windows:
            self._advance_watermarks(window)
        if recorded and self._is_queue:
            with suppress(InboxUnavailable):  # the events are recorded, and workers poll
                self._deliveries.notify()
        return recorded

    def _backfill(self, event: NewEvent, backdate_seconds: float) -> bool:
        recorded = self._reconciliation.backfill(
            event, skipped=event.livemode != self._livemode, backdate_seconds=backdate_seconds
        )
        if recorded:
            fields = {"event_id": event.id, "event_type": event.type, "context": event.context}
            log.info("event_backfilled", **fields)
        return recorded

    def _advance_watermarks(self, window: Window) -> None:
        # A late window begins where Stripe's list begins. No later run can read what is before it.
        begin = 0.0 if window.late else window.begin
        for type_ in window.advance:
            self._reconciliation.advance_watermark(
                livemode=self._livemode,
                context=window.context,
                type_=type_,
                begin=begin,
                end=window.end,
            )

    def unfinished_ids(self) -> list[str]:
        """Return the backfilled events of this run and earlier ones that are to be run here.

        There are none in queue mode, in which the workers run them.
        """
        if self._is_queue:
            return []
        return self._reconciliation.unfinished_ids(livemode=self._livemode)

    def run_unfinished(self) -> Iterator[tuple[Claim, Outcome]]:
        """Run the unfinished events one by one, in their order. Yields each with its outcome.

        A failed event stays pending, for the next run and for Stripe's next delivery.
        """
        mark_poison_dead(self._claims)
        for event_id in self.unfinished_ids():
            claim = self._claims.claim_unfinished(event_id, livemode=self._livemode)
            if claim is not None:  # None: a delivery has claimed it
                yield claim, self._run(claim)

    def _run(self, claim: Claim) -> Outcome:
        try:
            return self._runner.run(claim)
        except (CallbackFailed, Deferred) as error:
            return error.outcome

    def run_every(
        self, seconds: float, stop: threading.Event, accounts: Sequence[str] = ()
    ) -> None:
        """Find and record what is missing, now and every ``seconds``, until ``stop``.

        One process of an inbox does it, the leader. When it ends, another one takes over. For queue
        mode: the workers run the recorded events. No error ends it.
        """
        leader_id = new_process_name()

        def keep_leading() -> None:
            if stop.is_set() or not self._reconciliation.acquire_leadership(
                "reconcile", leader_id, max(seconds, MIN_LEADER_SECONDS)
            ):
                raise _StoppedError

        while not stop.is_set():
            self._reconcile(keep_leading, accounts)
            stop.wait(seconds)

    def _reconcile(self, keep_leading: Callable[[], object], accounts: Sequence[str]) -> None:
        try:
            keep_leading()
            gap = self.find(accounts, keep_alive=keep_leading)
            keep_leading()
            report(gap, self.record(gap))
        except _StoppedError:
            return
        except InboxUnavailable as error:
            log.warning("reconcile_failed", reason=error.reason)
        except stripe.StripeError as error:
            log.warning("reconcile_failed", reason=error_kind(error))
        except Exception:  # of any kind: the next round must still come
            log.exception("reconcile_failed")


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    remaining = iter(items)
    while chunk := list(islice(remaining, size)):
        yield chunk
