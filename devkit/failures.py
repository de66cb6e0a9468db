"""What a failed test shows of the log, and of the exception of a callback."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Container
from types import TracebackType
from typing import Any

import structlog

from app import tracebacks

#: How to get the frames that a report leaves out: an option of pytest.
MORE_FRAMES = "--full-trace"

_console = structlog.dev.ConsoleRenderer(colors=False, sort_keys=False)


def readable(captured: str, package: str, *, full: bool) -> str:
    """Return the captured standard error of a test with the log's JSON lines as text.

    A traceback begins with the exception and the frames of the handler ``package``. It has the
    other frames only if it is ``full``, or if it has none of the package.
    """
    return "\n".join(_readable_line(line, package, full=full) for line in captured.split("\n"))


def _readable_line(line: str, package: str, *, full: bool) -> str:
    fields = _log_fields(line)
    if fields is None:
        return line
    text = fields.get("exception")
    if isinstance(text, str):
        parsed = tracebacks.parse(text, package)
        whole = full or not parsed.is_own
        fields["exception"] = parsed.full if whole else parsed.brief(MORE_FRAMES)
    return str(_console(None, "", fields))


def _log_fields(line: str) -> dict[str, Any] | None:
    """Return the fields of a line of the log. None for any other line."""
    if not line.startswith('{"timestamp"'):
        return None
    try:
        fields = json.loads(line)
    except ValueError:
        return None
    return fields if isinstance(fields, dict) else None


def behind(traceback: TracebackType | None, files: Container[str]) -> TracebackType | None:
    """Return the traceback from the frame on that the last frame of these ``files`` has called.

    Frames of ``contextlib`` there are left out: they lead to a context manager. Without such a
    frame it is the whole ``traceback``.
    """
    found = traceback
    each = traceback
    while each is not None:
        if _file(each) in files and each.tb_next is not None:
            found = each.tb_next
        each = each.tb_next
    while found is not None and found.tb_next is not None and _file(found) == contextlib.__file__:
        found = found.tb_next
    return found


def _file(traceback: TracebackType) -> str:
    return traceback.tb_frame.f_code.co_filename
