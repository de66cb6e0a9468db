"""The states of an event, and the outcomes of deliveries and attempts."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """The state of an event."""

    PENDING = "pending"
    """It runs once it is due."""
    RUNNING = "running"
    """A process holds a claim on it."""
    DONE = "done"
    DEAD = "dead"
    """It needs a person."""


class Outcome(StrEnum):
    """The outcome of a delivery or of an attempt."""

    ACCEPTED = "accepted"
    """Recorded, for a worker to run it."""
    DUPLICATE = "duplicate"
    """A delivery of an event that is done or dead."""
    DEFERRED = "deferred"
    """The event runs under another claim."""
    REFUSED = "refused"
    """Not authentic, or no event notification."""
    UNAVAILABLE = "unavailable"
    """The inbox could not be reached, or the process is shutting down."""
    WRONG_MODE = "wrong_mode"
    """A live event where test events are run, or the reverse."""
    HANDLED = "handled"
    """The callback returned."""
    FAILED = "failed"
    """The callback raised, and the event is retried."""
    RELEASED = "released"
    """The process stopped while the callback ran, and gave its claim back."""
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
