"""How an engine reports that its database cannot be used."""

from __future__ import annotations

from pathlib import Path

from app.errors import InboxUnavailable
from app.text import in_one_line


def unavailable(error: BaseException, path: Path | None = None) -> InboxUnavailable:
    """Return the error for callers of the engine. Its reason is the ``error`` in one line.

    ``path`` is the file or folder that an error of the system is about.
    """
    if path is not None and isinstance(error, OSError):
        reason = f"{type(error).__name__}: {error.strerror}: {path}"
    else:
        reason = in_one_line(error)
    return InboxUnavailable("the inbox is not available", reason=reason)


def busy() -> InboxUnavailable:
    """Return the error for a write that waited too long for other writers."""
    return InboxUnavailable("the inbox is busy", reason="inbox_locked")
