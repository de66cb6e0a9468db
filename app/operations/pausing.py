"""The warning about a pause of an event type that may be misspelt."""

from __future__ import annotations

from collections.abc import Collection

from app.inbox import Inbox
from app.inbox.filters import EventFilter
from app.text import printable


def type_warnings(inbox: Inbox, event_type: str | None, *, handled: Collection[str]) -> list[str]:
    """Return a warning if the type is not ``handled`` and the inbox has no event of it.

    ``handled`` are the types that have a handler module. A pause of all types, None, has no
    warning.
    """
    if event_type is None or event_type in handled:
        return []
    if inbox.administration.page(EventFilter(type=event_type), limit=1).events:
        return []
    return [
        f"No handler module takes {printable(event_type)}, and the inbox has no event of it."
        " Is the type misspelt?"
    ]
