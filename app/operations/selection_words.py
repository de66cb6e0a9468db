"""A filter of events in words, for confirmations and for lists without an event."""

from __future__ import annotations

from app.formats import iso_time, mode
from app.inbox.filters import EventFilter


def words(matching: EventFilter) -> str:
    """Return the conditions as words after "events": `` that are dead, of type v1.invoice.paid``.

    Empty without a condition.
    """
    given = [
        ("that are {}", matching.state),
        ("with the outcome {}", matching.outcome),
        ("of {} mode", None if matching.livemode is None else mode(live=matching.livemode)),
        ("of type {}", matching.type),
        ("of account {}", matching.context),
        ("about {}", matching.object_id),
        ("with the error {}", matching.group),
        ("with their last failure before release {}", matching.failed_before),
        ("received since {}", _time(matching.since)),
        ("received until {}", _time(matching.until)),
    ]
    conditions = ", ".join(form.format(value) for form, value in given if value is not None)
    return f" {conditions}" if conditions else ""


def no_events(matching: EventFilter) -> str:
    """Return the sentence for a filter that no event matches."""
    conditions = words(matching)
    return f"There are no events{conditions}." if conditions else "The inbox has no events yet."


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else iso_time(seconds, "seconds")
