"""Which events a person can have run again, and how they run."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from app.errors import InboxUnavailable
from app.inbox import Event, Inbox
from app.inbox.models import EventRow
from app.processing.runner import Runner
from app.states import WITHOUT_MODULE, Outcome, State


class Refusal(Enum):
    """Why an event cannot be run again now."""

    ERASED = auto()
    """Its body was erased on request."""
    OTHER_MODE = auto()
    """It is live and ``STRIPE_API_KEY`` is of test mode, or the reverse."""
    SUCCEEDED = auto()
    """Its callback has returned. It can be run ``again``."""
    SUPERSEDED = auto()
    """A newer event of its object ran instead. It can be run ``again``."""
    TWIN = auto()
    """The other event of its pair succeeded. Run ``again``, it becomes the twin once more."""
    SHADOW = auto()
    """It ran as a shadow. It can be run ``again``."""
    NO_MODULE = auto()
    """The fallback took it, and its type still has no handler module. It can be run ``again``."""
    RUNNING = auto()
    RESCUED_SOON = auto()
    """It is an orphan, and a worker rescues it."""


#: The refusals of events that a person can have run ``again``.
AGAIN = frozenset(
    {
        Refusal.SUCCEEDED,
        Refusal.SUPERSEDED,
        Refusal.TWIN,
        Refusal.SHADOW,
        Refusal.NO_MODULE,
    }
)

#: The refusals of done events that have not simply succeeded, by their outcome.
_BY_OUTCOME: dict[str | None, Refusal] = {
    Outcome.SUPERSEDED: Refusal.SUPERSEDED,
    Outcome.TWIN: Refusal.TWIN,
    Outcome.SHADOW: Refusal.SHADOW,
}


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of one deployment: its mode, its way of processing, and its handled types."""

    livemode: bool
    is_queue: bool
    handled_types: Callable[[], Collection[str]]

    def refusal(self, event: Event | EventRow, *, again: bool = False) -> Refusal | None:
        """Return why ``event`` cannot be run, or None. ``again`` allows a second success."""
        if event.erased_at is not None:
            return Refusal.ERASED
        if event.livemode != self.livemode:
            return Refusal.OTHER_MODE
        if event.state == State.RUNNING:
            return self._refusal_of_running(event)
        return None if again or event.state != State.DONE else self._refusal_of_done(event)

    def _refusal_of_running(self, event: Event | EventRow) -> Refusal | None:
        if not event.is_orphan:
            return Refusal.RUNNING
        return Refusal.RESCUED_SOON if self.is_queue else None

    def _refusal_of_done(self, event: Event | EventRow) -> Refusal | None:
        if event.outcome not in WITHOUT_MODULE:
            return _BY_OUTCOME.get(event.outcome, Refusal.SUCCEEDED)
        has_module = event.outcome != Outcome.FALLBACK or event.type in self.handled_types()
        return None if has_module else Refusal.NO_MODULE


class ResultDelayed(InboxUnavailable):
    """The event was claimed, and the end of its attempt is recorded once the inbox is available."""


class Retrier:
    """Runs events again for a person: in queue mode by the workers, in inline mode here."""

    def __init__(self, inbox: Inbox, runner: Runner, *, is_queue: bool) -> None:
        """Take the ``inbox`` and the ``runner`` of this process."""
        self._inbox = inbox
        self._runner = runner
        self._is_queue = is_queue

    def retry(
        self, event: Event | EventRow, *, by: str, why: str | None, again: bool
    ) -> Outcome | None:
        """Run the event again, and return the outcome: ``accepted`` if it waits for a worker.

        None if it has changed since ``event`` was read, so that it is not run. A record of the
        person and the reason is kept with an event that is run. Raises ``DeliveryError`` as
        ``Runner.run``, ``ResultDelayed``, and ``InboxUnavailable`` if the event was not run.
        """
        names: dict[str, Any] = {"by": by, "why": why, "again": again, "seen": event}
        if self._is_queue:
            is_due = self._inbox.administration.reopen(event.id, **names)
            return Outcome.ACCEPTED if is_due else None
        claim = self._inbox.claims.claim_one(event.id, **names)
        if claim is None:
            return None
        try:
            return self._runner.run(claim)
        except InboxUnavailable as error:
            raise ResultDelayed(error.message, reason=error.reason) from error
