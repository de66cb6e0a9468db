"""The sentences of the operations page about one event."""

from __future__ import annotations

from dataclasses import dataclass

from app.formats import mode, plural
from app.inbox import Event
from app.processing.pairs import TWIN_RUNS
from app.states import Outcome, State


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence with one time in it, which the page writes in its own form."""

    before: str
    at: float | None = None
    after: str = ""


@dataclass(frozen=True, slots=True)
class Situation:
    """The facts beside the event: the time, the mode of processing, pauses, and a policy."""

    now: float
    is_queue: bool
    is_paused: bool = False
    is_type_paused: bool = False
    concurrency: int | None = None
    """The policy ``CONCURRENCY`` of its type."""


#: The words around the time at which an event became dead, by its outcome. ``{}`` is the number of
#: attempts.
DEAD = {
    Outcome.GAVE_UP: ("Dead: given up", "."),
    Outcome.EXHAUSTED: ("Dead: the last attempt of the retry policy failed", ", after {}."),
    Outcome.UNREADABLE: (
        "Dead: the SDK could not read the body",
        ". A newer version of the SDK may read it.",
    ),
    Outcome.CRASHED: (
        "Dead: its process ended during the attempt, too many times in a row, the last time",
        ".",
    ),
    Outcome.UNRECORDED: ("Dead: the inbox could not store the result of the callback", "."),
}


def of_state(event: Event, situation: Situation) -> Sentence:
    """Return what state the event is in, since when, and what happens next."""
    if event.erased_at is not None:
        return Sentence(
            f"Done: its outcome was {event.outcome}. It was erased",
            event.erased_at,
            " for a deletion request. Its body and the ids in it are gone, and it cannot be run.",
        )
    if event.state == State.RUNNING:
        return _running(event, situation)
    if event.state == State.PENDING:
        return _pending(event, situation)
    if event.state == State.DEAD:
        # A newer version can have stored another outcome.
        known = {each.value: words for each, words in DEAD.items()}
        before, after = known.get(event.outcome or "", (f"Dead: {event.outcome}", "."))
        return Sentence(before, event.settled_at, after.format(plural(event.attempt, "attempt")))
    return _done(event)


def _running(event: Event, situation: Situation) -> Sentence:
    if not event.is_orphan:
        return Sentence(f"Running: attempt {event.attempt} began", event.claimed_at, ".")
    what_next = "A worker rescues it." if situation.is_queue else "Retry it, or wait for Stripe."
    return Sentence(
        f"Orphaned: attempt {event.attempt} began",
        event.claimed_at,
        f", and its process died or no longer renews the lease. {what_next}",
    )


def has_failed(event: Event) -> bool:
    """Return True for a shadow whose callback raised. Its event is done nevertheless."""
    return event.outcome == Outcome.SHADOW and event.reason is not None


def _pending(event: Event, situation: Situation) -> Sentence:
    if not situation.is_queue:
        return _pending_at_stripe(event)
    if _waits_for_twin(event) and event.due_at > situation.now:
        return Sentence("Pending: its twin was running. It is tried again", event.due_at, ".")
    following = f"attempt {event.attempt + 1}"
    if event.due_at > situation.now:
        return Sentence(f"Pending: {following} is due", event.due_at, ".")
    if situation.is_paused:
        return Sentence(f"Pending: {following} was due", event.due_at, ". The workers are paused.")
    if situation.is_type_paused:
        return Sentence(f"Pending: {following} was due", event.due_at, ". Its type is paused.")
    what_next = ". A worker claims it next."
    if limit := situation.concurrency:
        what_next = f". A worker claims it when its type has a free slot (CONCURRENCY = {limit})."
    return Sentence(f"Pending: {following} was due", event.due_at, what_next)


def _pending_at_stripe(event: Event) -> Sentence:
    """Return the sentence for inline mode."""
    if event.attempt == 0:
        what_next = ". Queue mode accepted it, so Stripe does not deliver it again: retry it."
        return Sentence("Pending: not run yet. It was received", event.received_at, what_next)
    how = " without a success"
    if _waits_for_twin(event):
        how = " without a call of its callback, because its twin was running"
    return Sentence(
        f"Pending: attempt {event.attempt} ended",
        event.settled_at,
        f"{how}. Stripe delivers the event again, for up to three days.",
    )


def _waits_for_twin(event: Event) -> bool:
    return event.outcome == Outcome.RELEASED and event.reason == TWIN_RUNS


def _done(event: Event) -> Sentence:
    if event.outcome == Outcome.WRONG_MODE:
        own = mode(live=not event.livemode)
        return Sentence(
            "Recorded",
            event.received_at,
            f" and not run: it is a {mode(live=event.livemode)} event, and this service runs"
            f" {own} events.",
        )
    if event.outcome == Outcome.SUPERSEDED:
        return Sentence(
            "Not run since", event.settled_at, f": {event.reason}, an event of the same object."
        )
    if event.outcome == Outcome.TWIN:
        return Sentence(
            "Done", event.settled_at, " without a run: the callback of its twin has succeeded."
        )
    if event.outcome == Outcome.SHADOW:
        return _done_as_shadow(event)
    what = "the callback returned"
    if event.outcome == Outcome.FALLBACK:
        what = "its type has no handler module, and the fallback returned"
    return Sentence(f"Done: {what}", event.settled_at, f", in attempt {event.attempt}.")


def _done_as_shadow(event: Event) -> Sentence:
    if has_failed(event):
        return Sentence(
            "Done, although the callback of the shadow raised",
            event.settled_at,
            f", in attempt {event.attempt}. It is not retried: the snapshot module does the work.",
        )
    return Sentence(
        "Done: the callback of the shadow returned",
        event.settled_at,
        f", in attempt {event.attempt}. The snapshot module does the work.",
    )
