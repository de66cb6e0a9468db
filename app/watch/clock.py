"""The clock of this machine beside Stripe's. It decides how old a signature is."""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from app.formats import duration

#: The difference of the clocks, in seconds, before a warning, and at which signatures are refused.
WARN_SECONDS, REFUSED_SECONDS = 30, 300

#: What to do about a wrong clock.
REMEDY = f"Synchronize it: at {REFUSED_SECONDS} s every signature is refused"


def seconds_ahead(headers: Mapping[str, str], before: float, after: float) -> float | None:
    """Return by how many seconds, at least, Stripe's clock is ahead. None without a date.

    ``headers`` are those of an answer that was asked for at ``before`` and there at ``after``, in
    seconds since the epoch.
    """
    try:
        date = parsedate_to_datetime(headers["date"]).timestamp()
    except (KeyError, ValueError):
        return None
    # The date is rounded down to seconds. It was written between ``before`` and ``after``.
    least, most = date - after, date + 1 - before
    return 0.0 if least <= 0 <= most else min(least, most, key=abs)


def difference(ahead: float) -> str:
    """Return the difference of the clocks in words."""
    if abs(ahead) < WARN_SECONDS:
        return "as Stripe's"
    side = "behind" if ahead > 0 else "ahead of"
    return f"{duration(abs(ahead))} {side} Stripe's"
