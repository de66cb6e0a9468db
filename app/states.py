"""The states of an event, and the outcomes of deliveries and attempts."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """The state of an event."""

    PENDING = "pending"
    """Waiting until it is due."""
    RUNNING = "running"
    """A process holds a claim on it."""
    DONE = "done"
    DEAD = "dead"
    """Given up on: it needs a person."""


class Outcome(StrEnum):
    """The outcome of a delivery or of an attempt."""

    ACCEPTED = "accepted"
    """The event is recorded, and a worker runs it."""
    DUPLICATE = "duplicate"
    """The event of the delivery is done or dead."""
    DEFERRED = "deferred"
    """The event runs under another claim."""
    REFUSED = "refused"
    """The delivery is not authentic, or no event."""
    UNAVAILABLE = "unavailable"
    """The inbox could not be reached, or the process is shutting down."""
    WRONG_MODE = "wrong_mode"
    """A live event in a test deployment, or the reverse. It is not run."""
    SUPERSEDED = "superseded"
    """A newer event of the same type and object runs instead."""
    HANDLED = "handled"
    """The callback of the type's handler module returned."""
    FALLBACK = "fallback"
    """No handler module takes the type. The fallback returned, or a snapshot event has none."""
    TWIN = "twin"
    """The callback of the other event of a pair succeeded. This one was not run."""
    SHADOW = "shadow"
    """The callback ran beside the one of the snapshot event, without a write to Stripe."""
    FAILED = "failed"
    """The callback raised. The event is retried."""
    RELEASED = "released"
    """The process stopped during the callback, and gave its claim back."""
    GAVE_UP = "gave_up"
    """The callback raised ``GiveUp``."""
    EXHAUSTED = "exhausted"
    """The last attempt of the retry policy failed."""
    UNREADABLE = "unreadable"
    """The SDK cannot read the body."""
    CRASHED = "crashed"
    """Too many processes ended while the event ran."""
    UNRECORDED = "unrecorded"
    """The inbox cannot store the result."""


#: The outcomes of an attempt after which the event is done.
SUCCESSES = frozenset({Outcome.HANDLED, Outcome.FALLBACK, Outcome.TWIN, Outcome.SHADOW})

#: The outcomes of a done event that no handler module has run.
WITHOUT_MODULE = frozenset({Outcome.FALLBACK, Outcome.WRONG_MODE})

#: The outcomes of a done event that was not run. None is a failure.
NOT_RUN = frozenset({Outcome.WRONG_MODE, Outcome.SUPERSEDED, Outcome.TWIN})

#: The outcomes that only a delivery has. The inbox stores the others.
OF_DELIVERIES = frozenset(
    {
        Outcome.ACCEPTED,
        Outcome.DUPLICATE,
        Outcome.DEFERRED,
        Outcome.REFUSED,
        Outcome.UNAVAILABLE,
    }
)
