"""What all templates of the operations page use: the viewer, addresses, times and numbers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from flask import url_for
from markupsafe import Markup

from app.formats import counted, duration, few, iso_time, sentence, shortened
from app.inbox.groups import GroupRelease
from app.services import services
from app.text import LINES, printable
from app.web.ops import auth, security, static

#: Releases of an error group in a list.
SHOWN_RELEASES = 3


def context() -> dict[str, Any]:
    """Return the names that each template can use.

    ``viewer`` is None on a page for a request that is not authenticated. ``root`` is the address of
    the overview, to which the paths of other pages are added.
    """
    settings = services().settings
    return {
        "csrf_field": security.CSRF_FIELD,
        "mode": "live" if settings.livemode else "test",
        "root": url_for("ops.overview.show"),
        "static": static.address,
        "viewer": auth.found_viewer(),
    }


def when(at: float | None) -> Markup:
    """Return a time as HTML: relative to now, with the exact UTC time on hover or focus."""
    if at is None:
        return Markup("never")
    passed = time.time() - at
    shown = f"{duration(passed)} ago" if passed >= 0 else f"in {duration(-passed)}"
    moment = iso_time(at, "seconds")
    exact = moment.replace("T", " ").replace("Z", " UTC")
    return Markup('<time datetime="{}" data-exact="{}" tabindex="0">{}</time>').format(
        moment, exact, shown
    )


def number(value: int) -> str:
    """Return a number with commas between thousands."""
    return f"{value:,}"


def clean(text: str) -> str:
    """Return a text from outside as one line, without characters that are not seen."""
    return printable(text)


def clean_lines(text: str) -> str:
    """Return a text of several lines, without characters that are not seen."""
    return printable(text, LINES)


def line(text: str, most: int) -> str:
    """Return a text from outside as one line of at most ``most`` characters."""
    return shortened(printable(text[: 4 * most]), most)


def releases(found: Sequence[GroupRelease]) -> str:
    """Return the latest releases of an error group, and the number of the others."""
    return few([each.release or "unknown" for each in found], SHOWN_RELEASES) or "-"


FILTERS: dict[str, Callable[..., Any]] = {
    "clean": clean,
    "clean_lines": clean_lines,
    "counted": counted,
    "duration": duration,
    "line": line,
    "number": number,
    "releases": releases,
    "sentence": sentence,
    "when": when,
}
