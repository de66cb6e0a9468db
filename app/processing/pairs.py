"""Pairs of handler modules: one for the snapshot events of a type, one for its thin events.

Both exist while a team moves from snapshot to thin events. Stripe then sends each action as two
events, and only one of their callbacks may succeed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import structlog

from app.errors import Deferred
from app.inbox import Claim
from app.inbox.pairs import Hold, Pairs
from app.stripe_api.catalog import Kind, kind_of, snapshot_type

log = structlog.get_logger(__name__)

#: The first and the longest delay in seconds of an event of a pair that was given back. It doubles
#: each time.
FIRST_DELAY = 1.0
MAX_DELAY = 30.0


#: The reason of an event that was released because its twin was running.
TWIN_RUNS = "its twin was running"

#: The reason of an event that was released because the inbox did not say whether it may run.
UNDECIDED = "the inbox could not be reached before its callback"


def paired_types(handled: Iterable[str]) -> frozenset[str]:
    """Return the types that have a module for both kinds, in both spellings."""
    types = frozenset(handled)
    thin = {each for each in types if kind_of(each) is Kind.THIN and snapshot_type(each) in types}
    return frozenset({*thin, *map(snapshot_type, thin)})


class PairGate:
    """Decides before each callback of a paired type whether it runs."""

    def __init__(self, pairs: Pairs, types: frozenset[str]) -> None:
        """Take the inbox's API for pairs, and the paired ``types``."""
        self._pairs = pairs
        self._types = types

    def is_pair(self, event_type: str) -> bool:
        """Return whether both kinds of this type have a module."""
        return event_type in self._types

    def key(self, claim: Claim, event: Any) -> str | None:
        """Return the key of the event's pair, None if it has none.

        It fetches a thin event. The callback's own ``fetch_event()`` is answered from the cache.
        A retry takes the key that an attempt before has found, even if one of the two modules was
        removed since. Raises the SDK's errors, and ``InboxUnavailable``.
        """
        noted = self._pairs.noted(claim.event_id) if claim.attempt > 1 else None
        if noted or not self.is_pair(event.type):
            return noted
        return key_of(event)

    def note_shadow(self, claim: Claim, event: Any) -> None:
        """Record the snapshot event of a thin one that runs as a shadow. Raises as ``key``."""
        found = key_of(event)
        if found is not None:
            self._pairs.note(claim.event_id, found)

    def enter(self, claim: Claim, key: str, *, is_thin: bool) -> Hold:
        """Ask to run the event of this ``claim``."""
        if is_thin:
            self._pairs.note(claim.event_id, key)
        found = self._pairs.hold(claim, key)
        if found is not Hold.TAKEN:
            log.info("pair_not_run", pair=key, twin=found.name.lower())
        return found


def key_of(event: Any) -> str | None:
    """Return the id of the snapshot event of the action, None if Stripe names none.

    It fetches a thin event. Raises the SDK's errors.
    """
    if kind_of(event.type) is Kind.SNAPSHOT:
        return str(event.id)
    found = getattr(event.fetch_event(), "snapshot_event", None)
    return found if isinstance(found, str) and found else None


def delay_of(claim: Claim) -> float:
    """Return the seconds until the event is tried again: more at each claim."""
    return float(min(MAX_DELAY, FIRST_DELAY * 2 ** min(claim.attempt - 1, 10)))


def twin_runs(claim: Claim) -> Deferred:
    """Return the error of an event whose twin runs."""
    return Deferred(
        "the other event of the same action is running; deliver it again",
        reason="twin_running",
        retry_after=math.ceil(delay_of(claim)),
    )
