"""Compares the last hour of Stripe's lists with the inbox. It reads few pages."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import stripe

from app.formats import few, plural
from app.inbox.findings import FAILING, OK
from app.inbox.reconciliation import Reconciliation
from app.reconcile.listing import PAGE, ListedEvent, list_events
from app.reconcile.windows import TYPES_AT_ONCE, Window
from app.stripe_api.catalog import Kind
from app.stripe_api.destinations import plain_hint
from app.watch.at_stripe import Found

NAME = "reconcile_gap"

#: The newest events are not compared: Stripe repeats a delivery that failed a moment ago.
GRACE_SECONDS = 15 * 60
#: The length of the compared part of a list.
SECONDS = 3600
#: Pages of a list that one round reads at most, for each twenty types.
PAGES = 3


@dataclass(frozen=True, slots=True)
class Sent:
    """Event types of one kind that Stripe sends here since ``begin``, in seconds of the epoch."""

    types: Sequence[str]
    begin: float


def find(
    client: stripe.StripeClient, reconciliation: Reconciliation, sent: Sequence[Sent]
) -> Found:
    """Return which events of the last hour Stripe lists, and the inbox lacks.

    Events from before their types were ``sent`` are not compared. Raises ``stripe.StripeError`` and
    ``InboxUnavailable``.
    """
    end = math.floor(time.time() - GRACE_SECONDS)
    missing: dict[str, str] = {}
    for each in sent:
        begin = max(end - SECONDS, math.ceil(each.begin))
        for first in range(0, len(each.types) if begin < end else 0, TYPES_AT_ONCE):
            some = tuple(each.types[first : first + TYPES_AT_ONCE])
            listed = _read(client, Window("", some, begin, end, advance=(), late=()))
            known = reconciliation.known([one.event.id for one in listed])
            missing |= {one.event.id: one.event.type for one in listed if one.event.id not in known}
    if not missing:
        return Found(NAME, OK, "the inbox has the events that Stripe lists")
    kinds = sorted(set(missing.values()))
    text = f"Stripe lists {plural(len(missing), 'event')} that did not arrive ({few(kinds)})."
    return Found(
        NAME,
        FAILING,
        f"{text} Run {plain_hint('events', 'reconcile')}",
        {"number": len(missing), "types": kinds},
    )


def _read(client: stripe.StripeClient, window: Window) -> list[ListedEvent]:
    """Return the newest events of the window, and the undelivered ones of a window with more.

    Only the list of snapshot events can be filtered. The filter alone would not find an event that
    another server has answered with 2xx.
    """
    most = PAGES * PAGE
    listed = list(islice(list_events(client, window), most))
    if len(listed) == most and window.kind is Kind.SNAPSHOT:
        listed += islice(list_events(client, window, only_undelivered=True), most)
    return listed
