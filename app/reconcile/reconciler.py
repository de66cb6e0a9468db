"""Finds the events that Stripe has and the inbox lacks, and brings them back.

Stripe's list of events has no filter for what was not delivered: only a record of our own can say
what is missing. So a window of the list is read, for each account, and what the inbox has is
subtracted. What is missing is recorded as if it had been delivered, and run in the mode's way.

How far the list was read is kept for each account and each event type. A type that is handled from
today on so begins at its own beginning, not where the others are. A watermark moves only when all
that is missing before it is recorded; so a run may end anywhere, and the next one does the rest.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import stripe
import structlog

from app.errors import CallbackFailed, Deferred, InboxUnavailable, Refused
from app.inbox import Claim, Inbox, NewEvent
from app.processing.receiver import read_notification
from app.processing.registry import Registry
from app.processing.runner import Runner
from app.settings import Settings
from app.states import Outcome

log = structlog.get_logger(__name__)

#: Event types that one call of Stripe's list takes.
TYPES_AT_ONCE = 20

#: Events on one page of the list, and events of which the inbox is asked at once.
PAGE = 100
ASK_AT_ONCE = 500

#: Seconds before now that are left to deliveries: the list is complete only after some time.
LAG = 5 * 60

#: Seconds by which windows overlap: events can come into the list late, and not in their order.
OVERLAP = 10 * 60

#: Seconds that are looked at when a type was never looked for before.
FIRST = 24 * 3600

#: Seconds for which Stripe lists events.
KEPT = 30 * 24 * 3600

#: The shortest time, in seconds, for which nobody else takes the turn of one that may have died.
MIN_LEADER_SECONDS = 60.0

#: Seconds by which each event that is recorded is due before the next one.
BEFORE = 1e-6

#: What a notification is made of. Of an event, the rest is fetched when it is needed.
FIELDS = ("id", "object", "type", "livemode", "created", "context", "reason", "related_object")

#: Errors that are one account's: it is not connected, or the key may not see it.
OF_AN_ACCOUNT = (stripe.PermissionError, stripe.InvalidRequestError)


@dataclass(frozen=True, slots=True)
class Window:
    """A part of Stripe's list that is read at once. Times are seconds since the epoch.

    ``context`` is empty for the account of the key. ``advance`` are those of the ``types`` whose
    watermark moves to ``end`` afterwards: for the others the window begins too late.
    """

    context: str
    types: tuple[str, ...]
    begin: float
    end: float
    advance: tuple[str, ...]
    late: tuple[str, ...]
    """Types whose watermark is older than what Stripe still lists."""


@dataclass(frozen=True, slots=True)
class Missing:
    """An event that Stripe has and the inbox lacks. ``created`` is as Stripe wrote it."""

    event: NewEvent
    created: str


@dataclass(slots=True)
class Gap:
    """What was read, and what is missing, the oldest first."""

    windows: list[Window] = field(default_factory=list)
    listed: int = 0
    missing: list[Missing] = field(default_factory=list)
    failed: dict[str, stripe.StripeError] = field(default_factory=dict)
    """What went wrong with single accounts. Their watermarks stay where they are."""


class _StoppedError(Exception):
    """The process ends, or another one does this now."""


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
        """Take the parts. The ``client`` is asked for the events of the types in ``registry``."""
        self._livemode = settings.livemode
        self._is_queue = settings.is_queue
        self._types = [module.event_type for module in registry.modules]
        self._inbox = inbox
        self._client = client
        self._runner = runner

    @property
    def types(self) -> list[str]:
        """The event types that are looked for: those with a module of their own."""
        return list(self._types)

    def find(
        self,
        accounts: Sequence[str],
        since: float | None = None,
        *,
        keep: Callable[[], object] = lambda: None,
    ) -> Gap:
        """Return what is missing, for the account of the key and each of the ``accounts``.

        It begins at ``since``, in seconds since the epoch, or where the last one ended. ``keep`` is
        called now and then, and may raise. Raises ``stripe.StripeError``, unless it concerns one of
        several accounts only, and ``InboxUnavailable``. Nothing is changed.
        """
        gap = Gap()
        missing: dict[str, Missing] = {}
        for context in dict.fromkeys(["", *accounts]):
            try:
                windows = self._windows(context, since)
                for window in windows:
                    self._read(window, gap, missing, keep)
            except OF_AN_ACCOUNT as error:
                if not accounts:
                    raise
                gap.failed[context] = error
            else:
                gap.windows += windows
        gap.missing = sorted(missing.values(), key=lambda each: (each.created, each.event.id))
        return gap

    def record(self, gap: Gap) -> int:
        """Record what is missing, and then how far the list was read. Returns how many were new.

        Those that a delivery brought meanwhile are left as they are.
        """
        count = len(gap.missing)
        recorded = sum(
            self._backfill(each.event, (count - place) * BEFORE)
            for place, each in enumerate(gap.missing)
        )
        for window in gap.windows:
            # What Stripe lists no longer nobody can read: a window that begins there leaves no gap.
            begin = 0.0 if window.late else window.begin
            for type_ in window.advance:
                self._inbox.reconciliation.advance_watermark(
                    livemode=self._livemode,
                    context=window.context,
                    type_=type_,
                    begin=begin,
                    end=window.end,
                )
        if recorded and self._is_queue:
            with suppress(InboxUnavailable):  # they are recorded, and workers look by themselves
                self._inbox.deliveries.notify()
        return recorded

    def unfinished_ids(self) -> list[str]:
        """Return what was brought back, by this run or an earlier one, and has to be run here.

        In queue mode the workers run it.
        """
        return (
            []
            if self._is_queue
            else self._inbox.reconciliation.unfinished_ids(livemode=self._livemode)
        )

    def run_unfinished(self) -> Iterator[tuple[Claim, str]]:
        """Run them, one by one, the first one first. Yields each with what became of it.

        One that fails stays pending, for the next time and for Stripe's next delivery.
        """
        self._bury_poison()
        for event_id in self.unfinished_ids():
            claim = self._inbox.claims.claim_unfinished(event_id, livemode=self._livemode)
            if claim is not None:  # a delivery may have been faster
                yield claim, self._run(claim)

    def run_every(
        self, seconds: float, stop: threading.Event, accounts: Sequence[str] = ()
    ) -> None:
        """Find and record what is missing, now and every so many ``seconds``, until ``stop``.

        Of all processes that share the inbox one does it; when that ends, another one takes over.
        For queue mode: the workers run what is recorded. No error ends it.
        """
        leader_id = f"{socket.gethostname()}:{os.getpid()}:{os.urandom(8).hex()}"

        def keep() -> None:
            if stop.is_set() or not self._inbox.reconciliation.acquire_leadership(
                "reconcile", leader_id, max(seconds, MIN_LEADER_SECONDS)
            ):
                raise _StoppedError

        while not stop.is_set():
            self._take_turn(keep, accounts)
            stop.wait(seconds)

    def _take_turn(self, keep: Callable[[], object], accounts: Sequence[str]) -> None:
        try:
            keep()
            gap = self.find(accounts, keep=keep)
            keep()
            report(gap, self.record(gap))
        except _StoppedError:
            return
        except InboxUnavailable as error:
            log.warning("reconcile_failed", reason=error.reason)
        except stripe.StripeError as error:
            log.warning("reconcile_failed", reason=name_of(error))
        except Exception:  # whatever it is, ending this thread would end all that is to come
            log.exception("reconcile_failed")

    def _windows(self, context: str, since: float | None) -> list[Window]:
        """Plan which parts of the list are read: up to twenty types at once, of like beginnings."""
        now = time.time()
        end, oldest = now - LAG, now - KEPT
        reached = self._inbox.reconciliation.watermarks(livemode=self._livemode, context=context)
        # Up to when each type is complete. What Stripe lists no longer cannot be completed.
        complete = {type_: max(oldest, reached.get(type_, now - FIRST)) for type_ in self._types}
        overlap = {type_: OVERLAP if type_ in reached else 0 for type_ in self._types}
        begins = {
            type_: complete[type_] - overlap[type_] if since is None else since
            for type_ in self._types
        }
        ordered = sorted(self._types, key=lambda type_: (begins[type_], type_))
        windows = []
        for types in _chunks(iter(ordered), TYPES_AT_ONCE):
            begin = min(end, max(oldest, begins[types[0]]))
            advance = tuple(type_ for type_ in types if begin <= complete[type_])
            late = tuple(type_ for type_ in types if reached.get(type_, now) < oldest)
            windows.append(Window(context, tuple(types), begin, end, advance, late))
        return windows

    def _read(
        self,
        window: Window,
        gap: Gap,
        missing: dict[str, Missing],
        keep: Callable[[], object],
    ) -> None:
        """Read one window, and add what the inbox lacks to ``missing``."""
        for listed in _chunks(self._listed(window), ASK_AT_ONCE):
            keep()
            gap.listed += len(listed)
            events = {each.event.id: each for each in listed}
            known = self._inbox.reconciliation.known(list(events))
            missing |= {id_: each for id_, each in events.items() if id_ not in known}

    def _listed(self, window: Window) -> Iterator[Missing]:
        """Yield the events that Stripe lists, page by page."""
        created = {"gte": _rfc3339(window.begin), "lt": _rfc3339(window.end)}
        params: Any = {"types": list(window.types), "created": created, "limit": PAGE}
        options: Any = {"stripe_context": window.context} if window.context else {}
        events: Any = self._client.v2.core.events.list(params, options)
        for event in events.auto_paging_iter():
            values = event.to_dict() if isinstance(event, stripe.StripeObject) else {}
            try:
                yield _to_missing(values, window.context)
            except Refused as error:
                raise stripe.APIError(f"a listed event cannot be read: {error.message}") from None

    def _backfill(self, event: NewEvent, ahead: float) -> bool:
        aside = event.livemode != self._livemode
        recorded = self._inbox.reconciliation.backfill(event, skipped=aside, backdate_seconds=ahead)
        if recorded:
            log.info(
                "event_backfilled",
                event_id=event.id,
                event_type=event.type,
                context=event.context,
            )
        return recorded

    def _run(self, claim: Claim) -> Outcome:
        try:
            return self._runner.run(claim)
        except (CallbackFailed, Deferred) as error:
            return error.outcome

    def _bury_poison(self) -> None:
        while buried := self._inbox.claims.mark_poison_dead():
            log.error("event_crashed", **buried)


def report(gap: Gap, recorded: int) -> None:
    """Write the line of one reconciliation, and one for each thing that a person should know."""
    for context, error in gap.failed.items():
        log.warning("account_not_reconciled", context=context or None, reason=name_of(error))
    for window in gap.windows:
        if window.late:
            log.warning("events_out_of_reach", context=window.context or None, types=window.late)
    log.info("reconciled", listed=gap.listed, missing=len(gap.missing), recorded=recorded)


def name_of(error: stripe.StripeError) -> str:
    """Return the kind of an error of Stripe's API, without what it says."""
    return " ".join(str(part) for part in (type(error).__name__, error.http_status) if part)


def _to_missing(values: dict[str, Any], context: str) -> Missing:
    """Return what Stripe would have delivered for a listed event. Raises ``Refused``."""
    thin = {name: values[name] for name in FIELDS if values.get(name) is not None}
    if context:
        thin.setdefault("context", context)
    body = json.dumps(thin, separators=(",", ":")).encode()
    return Missing(read_notification(body), str(values.get("created")))


def _chunks(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while chunk := list(islice(items, size)):
        yield chunk


def _rfc3339(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
