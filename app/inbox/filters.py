"""Filters for the events that a person lists, counts or retries, and their form in an address."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from app.states import OF_DELIVERIES, Outcome, State

STATES = [each.value for each in State]
#: The outcomes that the inbox stores.
OUTCOMES = [each.value for each in Outcome if each not in OF_DELIVERIES]

#: Seconds of the units in ``30m`` or ``24h``.
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

#: The texts of a filter that both databases can compare.
_WORD = re.compile(r"[\x21-\x7e]{1,255}")
_MODES = {"live": True, "test": False}


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Conditions on events. None is no condition. Times are seconds since the epoch.

    ``since`` and ``until`` limit the time of receipt, both inclusive. ``object_id`` is the id of
    the related object, ``group`` the fingerprint of an error group. ``failed_before`` is a release:
    only events whose latest attempt failed under a release that began before it, or under an
    unknown one before it began. ``unchanged_since``: only events without a result or a person's
    retry since this time.
    """

    state: str | None = None
    type: str | None = None
    context: str | None = None
    since: float | None = None
    outcome: str | None = None
    livemode: bool | None = None
    object_id: str | None = None
    group: str | None = None
    until: float | None = None
    failed_before: str | None = None
    unchanged_since: float | None = None


#: The name of each field in an address.
NAMES = {
    **{each.name: each.name for each in fields(EventFilter)},
    "livemode": "mode",
    "object_id": "object",
    "failed_before": "failed-before",
    "unchanged_since": "unchanged-since",
}


def to_query(matching: EventFilter) -> str:
    """Return a filter as the query string of an address. Empty without a condition."""
    given = {NAMES[each.name]: getattr(matching, each.name) for each in fields(EventFilter)}
    return urlencode({name: _text(value) for name, value in given.items() if value is not None})


def from_query(query: Mapping[str, str]) -> EventFilter:
    """Return the filter of an address. Other names and empty values are ignored.

    Raises ``ValueError`` with a sentence about the first value that is invalid.
    """
    values: dict[str, Any] = {}
    for field, name in NAMES.items():
        text = query.get(name, "").strip()
        if text:
            values[field] = _READERS.get(field, _read_word)(name, text)
    return EventFilter(**values)


def read_time(text: str) -> float:
    """Return seconds since the epoch for ``2h``, ``2026-11-25`` or ``2026-11-25T10:00Z``.

    A time without a zone is UTC. Raises ``ValueError`` with a sentence, also for a time that is not
    in the years 1 to 9999 in UTC.
    """
    seconds = _seconds(text)
    try:
        datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        raise ValueError(f"{text!r} is not in the years 1 to 9999") from None
    return seconds


def _seconds(text: str) -> float:
    ago = re.fullmatch(r"([0-9]{1,9})([smhd])", text)
    if ago:
        return time.time() - int(ago[1]) * UNITS[ago[2]]
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except ValueError:
        raise ValueError(
            f"{text!r} is neither an age like 30m, 24h or 3d nor a time like 2026-11-25T10:00Z"
        ) from None


def _text(value: str | float | bool) -> str:  # noqa: FBT001 - the value of any field
    if isinstance(value, bool):
        return "live" if value else "test"
    if isinstance(value, str):
        return value
    return datetime.fromtimestamp(value, UTC).isoformat().replace("+00:00", "Z")


def _read_word(name: str, text: str) -> str:
    if not _WORD.fullmatch(text):
        raise ValueError(f"{name}: {text!r} has a space or a character that no id has")
    return text


def _one_of(names: list[str]) -> Callable[[str, str], str]:
    """Return a reader that accepts only these ``names``."""

    def read(name: str, text: str) -> str:
        if text not in names:
            raise ValueError(f"{name}: {text!r} is none of {', '.join(names)}")
        return text

    return read


def _read_mode(name: str, text: str) -> bool:
    return _MODES[_one_of([*_MODES])(name, text)]


def _read_time(name: str, text: str) -> float:
    try:
        return read_time(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


#: How to read the fields that are no words.
_READERS: dict[str, Callable[[str, str], Any]] = {
    "state": _one_of(STATES),
    "outcome": _one_of(OUTCOMES),
    "livemode": _read_mode,
    "since": _read_time,
    "until": _read_time,
    "unchanged_since": _read_time,
}
