"""Pauses in words: since when, by which operator, why, and how they end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.cli.hints import hint
from app.cli.output import iso_time
from app.inbox.models import BREAKER

if TYPE_CHECKING:
    from app.inbox import Note


def paused_sentences(note: Note, event_type: str | None, *, is_queue: bool) -> str:
    """Return all about the pause of the workers, or of one ``event_type``."""
    subject = f"{event_type} is" if event_type else "The workers are"
    return f"{subject} {since(note)}. {how_to_resume(event_type, note, is_queue=is_queue)}."


def since(note: Note) -> str:
    """Return since when, by which operator and why: ``paused since ..., by ...: ...``."""
    by = f"its {BREAKER}" if note.by == BREAKER else note.by
    return f"paused since {iso_time(note.at)}, by {by}{f': {note.why}' if note.why else ''}"


def how_to_resume(event_type: str | None, note: Note, *, is_queue: bool) -> str:
    """Return how the pause ends, without a full stop.

    A circuit breaker ends its pause by itself, in queue mode. While the cause remains, a resume by
    a person only uses up attempts.
    """
    if event_type is None:
        return f"Resume them with {hint('events', 'resume')}"
    resume = hint("events", "resume", "--type", event_type)
    if note.by == BREAKER and is_queue:
        groups = hint("events", "groups")
        return (
            f"Repair the cause, which {groups} shows. One event is tried each minute, and a"
            f" success resumes the type; {resume} does not wait for that"
        )
    return f"Resume it with {resume}"
