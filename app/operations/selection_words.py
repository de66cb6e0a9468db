"""A filter of events in words, and the check of the names in it."""

from __future__ import annotations

from app.formats import iso_time, mode
from app.inbox import Inbox
from app.inbox.filters import EventFilter
from app.text import printable

#: Releases that a refusal names.
SHOWN = 3


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
        ("that failed before release {}", matching.failed_before),
        ("received since {}", _time(matching.since)),
        ("received until {}", _time(matching.until)),
    ]
    conditions = ", ".join(form.format(value) for form, value in given if value is not None)
    return f" {conditions}" if conditions else ""


def no_events(matching: EventFilter) -> str:
    """Return the sentence for a filter that no event matches."""
    conditions = words(matching)
    return f"There are no events{conditions}." if conditions else "The inbox has no events yet."


def require_known(inbox: Inbox, matching: EventFilter) -> None:
    """Raise ``ValueError`` with a sentence if the inbox has no such error group or release."""
    group, release = matching.group, matching.failed_before
    # An imported event brings its group, and no counts of it.
    if group and not (
        inbox.groups.find(group)
        or inbox.administration.page(EventFilter(group=group), limit=1).events
    ):
        raise ValueError(f"There is no error group {printable(group)}")
    if release and not inbox.groups.has_begun(release):
        latest = ", ".join(inbox.groups.begun(SHOWN)) or "none"
        raise ValueError(
            f"No process of a release {printable(release)} has started. The latest releases:"
            f" {printable(latest)}"
        )


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else iso_time(seconds, "seconds")
