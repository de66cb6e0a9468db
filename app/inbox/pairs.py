"""The inbox for pairs: of a snapshot event and its thin event, one callback succeeds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from app.inbox.models import Claim
from app.inbox.sql import pairs as statements
from app.inbox.store import Store

#: Tries to take the hold. One that is lost to another process or whose claim ended is tried again.
TRIES = 5


class Hold(Enum):
    """The answer for an event of a pair that is to run."""

    TAKEN = auto()
    """Its callback may run."""
    TWIN_SUCCEEDED = auto()
    """The callback of the other event has succeeded."""
    TWIN_RUNS = auto()
    """The other event runs now."""


@dataclass(frozen=True, slots=True)
class Twin:
    """The other event of an action. Only its id is known if it is not in the inbox."""

    id: str
    type: str | None
    state: str | None
    outcome: str | None


class Pairs:
    """Decides which event of a pair runs. The key of a pair is the id of its snapshot event."""

    def __init__(self, store: Store) -> None:
        """Take the ``store`` of the events."""
        self._store = store

    def note(self, event_id: str, snapshot_event: str) -> None:
        """Record the snapshot event of a thin event."""
        self._store.write(statements.NOTE, event_id=event_id, pair_key=snapshot_event)

    def noted(self, event_id: str) -> str | None:
        """Return the key of the pair of an event, if its thin event is noted."""
        rows = self._store.read(statements.NOTED, event_id=event_id)
        return rows[0].snapshot_event if rows else None

    def twins(self, event_id: str) -> list[Twin]:
        """Return the other events of the same action: one at most, unless Stripe sends more.

        Only the thin event names its twin. It is known once the thin event was fetched for its run.
        """
        rows = self._store.read(statements.TWINS, event_id=event_id)
        return [Twin(*tuple(row)) for row in rows]

    def hold(self, claim: Claim, pair_key: str) -> Hold:
        """Let the event of this ``claim`` run, unless the other one runs or succeeded.

        The hold is committed when this returns. It ends with the claim, and stays for ever once
        the event is done.
        """
        names: dict[str, Any] = {"event_id": claim.event_id, "pair_key": pair_key}
        for _ in range(TRIES):
            claimed = {**names, "claim": claim.attempt, "token": claim.token}
            if self._store.write(statements.HOLD, **claimed) is not None:
                return Hold.TAKEN
            (found,) = self._store.read(statements.FIND, **names)
            if found.has_succeeded:
                return Hold.TWIN_SUCCEEDED
            if found.is_live:
                break
            if found.holder is not None:
                held = {"holder": found.holder, "held_by": found.held_by}
                self._store.write(statements.END_ORPHAN, **held)
                self._store.write(statements.FREE, pair_key=pair_key, **held)
        return Hold.TWIN_RUNS
