"""Filters for the events that a person lists, counts or retries."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Conditions on events. None is no condition. ``since`` is seconds since the epoch."""

    state: str | None = None
    type: str | None = None
    context: str | None = None
    since: float | None = None
    outcome: str | None = None
    livemode: bool | None = None
