"""How numbers, times and lists are written, in the commands and on the operations page."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime


def sentence(text: str) -> str:
    """Return ``text`` with an upper-case letter at its beginning."""
    return text[:1].upper() + text[1:]


def plural(count: int, noun: str) -> str:
    """Return ``count`` with its noun: ``1 event``, ``2 events``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def counted(number: object, singular: str, plural: str = "") -> str:
    """Return a number, or a ``Count``, with its noun: ``1 event``, ``1,204 events``.

    A ``Count`` can be bounded: ``10,000+ events``.
    """
    shown = f"{number:,}" if isinstance(number, int) else str(number)
    return f"{shown} {singular if shown == '1' else plural or f'{singular}s'}"


def few(names: Sequence[str], most: int = 5) -> str:
    """Return the first ``most`` names, separated by commas, and the number of the others."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def shortened(text: str, most: int) -> str:
    """Return ``text`` on one line, with ``...`` at its end if it is longer than ``most``."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 4]} ..."


def iso_time(seconds: float, timespec: str = "milliseconds") -> str:
    """Return a time in seconds since 1970 as ISO 8601 in UTC: ``2026-11-25T10:00:00.000Z``."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec=timespec).replace("+00:00", "Z")


def duration(seconds: float) -> str:
    """Return a duration in the largest unit of which there are two, rounded down."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


def mode(*, live: bool) -> str:
    """Return the name of a mode of Stripe's."""
    return "live" if live else "test"
