"""Logging with structlog, for the lines of the service and those of all libraries.

All lines have one format and go to standard error. They hold no secrets, no bodies and no local
variables. SQLAlchemy hides its parameters (``make_migration_engine`` in ``app/inbox/engine``).

No log call raises or loses its line. A value that cannot be rendered is replaced by a text that
says so. When the stream fails, the line goes to a copy of file descriptor 2.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import structlog

from app.log.libraries import capture
from app.log.lines import LineRenderer
from app.log.logger import logger_class
from app.log.stream import output

__all__ = ["configure", "output"]


def configure(
    level: str, log_format: str, secrets: Iterable[str] = (), package: str = "handlers"
) -> None:
    """Set up logging for this process: ``level``, and ``json`` or ``console`` lines.

    ``secrets`` are redacted in every line, also in tracebacks. In ``console`` lines, a traceback
    begins with the exception and the frames of the handler ``package``. The other frames of such a
    traceback are shown from level ``debug`` on. Lines go to the standard error of the moment of
    this call.
    """
    output.take()
    full = level.lower() == "debug"
    renderer = LineRenderer(log_format, secrets, package=package, full=full)
    structlog.configure(
        processors=[renderer],
        wrapper_class=logger_class(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=lambda *_names: output,
        cache_logger_on_first_use=False,
    )
    capture(renderer, level)
