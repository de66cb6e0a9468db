"""Compares the last hour of Stripe's list with the inbox. It reads few pages."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import stripe

from app.formats import few, plural
from app.inbox.findings import FAILING, OK
from app.inbox.reconciliation import Reconciliation
from app.reconcile.listing import PAGE, list_events
from app.reconcile.reconciler import ACCOUNT_ERRORS
from app.reconcile.windows import TYPES_AT_ONCE, Window
from app.stripe_api.destinations import plain_hint
from app.watch.at_stripe import Found

NAME = "reconcile_gap"

#: The newest events are not compared: Stripe repeats a delivery that failed a moment ago.
GRACE_SECONDS = 15 * 60
#: The length of the compared part of the list.
SECONDS = 3600
#: Connected accounts that one round compares at most: those of the latest events.
ACCOUNTS = 3
#: Pages of the list that one round reads at most, for each twenty types.
PAGES = 3


@dataclass(frozen=True, slots=True)
class Source:
    """The types that destinations send for one account. It is empty for that of the key.

    Events from before ``begin``, in seconds since the epoch, are not compared.
    """

    account: str
    types: tuple[str, ...]
    begin: float


def find(
    client: stripe.StripeClient, reconciliation: Reconciliation, sources: Sequence[Source]
) -> Found:
    """Return which events of the last hour Stripe lists, and the inbox lacks.

    A connected account whose events the key may not read is left out. Raises
    ``stripe.StripeError`` and ``InboxUnavailable``.
    """
    missing: dict[str, str] = {}
    accounts = []
    for source in sources:
        try:
            found = _missing(client, reconciliation, source)
        except ACCOUNT_ERRORS:
            if not source.account:
                raise
            continue
        missing |= found
        accounts += [source.account] if found and source.account else []
    if not missing:
        return Found(NAME, OK, "the inbox has the events that Stripe lists")
    kinds = sorted(set(missing.values()))
    text = f"Stripe lists {plural(len(missing), 'event')} that did not arrive ({few(kinds)})."
    options = [word for account in accounts for word in ("--account", account)]
    return Found(
        NAME,
        FAILING,
        f"{text} Run {plain_hint('events', 'reconcile', *options)}",
        {"number": len(missing), "types": kinds, "accounts": accounts},
    )


def _missing(
    client: stripe.StripeClient, reconciliation: Reconciliation, source: Source
) -> dict[str, str]:
    """Return the missing events of one account: the id and the type of each."""
    end = time.time() - GRACE_SECONDS
    begin, types = max(end - SECONDS, source.begin), source.types
    missing: dict[str, str] = {}
    for first in range(0, len(types) if begin < end else 0, TYPES_AT_ONCE):
        some = tuple(types[first : first + TYPES_AT_ONCE])
        window = Window(source.account, some, begin, end, advance=(), late=())
        listed = list(islice(list_events(client, window), PAGES * PAGE))
        known = reconciliation.known([each.event.id for each in listed])
        missing |= {each.event.id: each.event.type for each in listed if each.event.id not in known}
    return missing
