"""Compares the last hour of Stripe's list with the inbox. It reads few pages."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import islice

import stripe

from app.formats import few, plural
from app.inbox.findings import FAILING, OK
from app.inbox.reconciliation import Reconciliation
from app.reconcile.listing import PAGE, list_events
from app.reconcile.windows import TYPES_AT_ONCE, Window
from app.stripe_api.destinations import plain_hint
from app.watch.at_stripe import Found

NAME = "reconcile_gap"

#: The newest events are not compared: Stripe repeats a delivery that failed a moment ago.
GRACE_SECONDS = 15 * 60
#: The length of the compared part of the list.
SECONDS = 3600
#: Pages of the list that one round reads at most, for each twenty types.
PAGES = 3


def find(
    client: stripe.StripeClient,
    reconciliation: Reconciliation,
    types: Sequence[str],
    *,
    not_before: float,
) -> Found:
    """Return which events of the last hour Stripe lists, and the inbox lacks.

    Events from before ``not_before``, in seconds since the epoch, are not compared. Raises
    ``stripe.StripeError`` and ``InboxUnavailable``.
    """
    end = time.time() - GRACE_SECONDS
    begin = max(end - SECONDS, not_before)
    missing: dict[str, str] = {}
    for first in range(0, len(types) if begin < end else 0, TYPES_AT_ONCE):
        some = tuple(types[first : first + TYPES_AT_ONCE])
        window = Window("", some, begin, end, advance=(), late=())
        listed = list(islice(list_events(client, window), PAGES * PAGE))
        known = reconciliation.known([each.event.id for each in listed])
        missing |= {each.event.id: each.event.type for each in listed if each.event.id not in known}
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
