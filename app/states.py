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
    """The delivery is not authentic, or no event notification."""
    UNAVAILABLE = "unavailable"
    """The inbox could not be reached, or the process is shutting down."""
    WRONG_MODE = "wrong_mode"
    """A live event in a test deployment, or the reverse. It is not run."""
    HANDLED = "handled"
    """The callback returned."""
    FAILED = "failed"
    """The callback raised. The event is retried."""
    RELEASED = "released"
    """The process stopped during the callback, and gave its claim back."""
    GAVE_UP = "gave_up"
    """The callback raised ``GiveUp``."""
    EXHAUSTED = "exhausted"
    """The last attempt of the retry policy failed."""
    UNREADABLE = "unreadable"
    """The SDK cannot read the notification."""
    CRASHED = "crashed"
    """Too many processes ended while the event ran."""
    UNRECORDED = "unrecorded"
    """The inbox cannot store the result."""
