"""The lines of ``flask doctor`` about alerts."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from app.cli.doctor.lines import Level, Line
from app.cli.hints import hint
from app.cli.output import few, plural
from app.errors import InboxUnavailable, StartError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.inbox import Inbox
    from app.settings import Settings


def alert_lines(inbox: Inbox, settings: Settings) -> Iterator[Line]:
    """Yield where alerts are sent, if anywhere, and those that are raised."""
    if settings.alert_url:
        signed = "signed" if settings.alert_secret else "not signed"
        text = f"sent to {urlsplit(settings.alert_url).netloc}, {signed}"
        yield Line(Level.OK, "alerts", f"{text}; {hint('alerts', 'test')} sends a test")
    try:
        raised = [each.id for each in inbox.alerts.raised()]
    except (InboxUnavailable, StartError):
        return  # another line reports it
    if raised:
        verb = "is" if len(raised) == 1 else "are"
        text = f"{plural(len(raised), 'alert')} {verb} raised: {few(raised)}"
        yield Line(Level.WARN, "alerts", text, f"See {hint('alerts', 'list')}")
