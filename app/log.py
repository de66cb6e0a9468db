"""structlog for our lines, and for everybody else's: one format, no secrets.

Lines go to standard error. What is logged never holds a body or local variables: nothing here
renders them, and SQLAlchemy is told to hide its parameters (``app/inbox/database.py``).
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sys
from typing import TYPE_CHECKING, Any

import structlog
from gunicorn.glogging import Logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from structlog.typing import EventDict, Processor, WrappedLogger

#: Loggers that may not go below WARNING, whatever LOG_LEVEL says: the SDK's write URLs at
#: INFO and whole answers at DEBUG, and answers hold customers' data.
QUIET_LOGGERS = ("stripe", "urllib3", "sqlalchemy", "alembic", "psycopg")

#: What a reader looks for first, in this order.
FIRST = ("timestamp", "level", "event")

#: What secrets look like, for those that are not this process's own.
SECRET_SHAPES = (
    r"\bwhsec_[^\s\"',]+",
    r"\b[sr]k_(?:live|test)_[^\s\"',]+",
    r"(?<=://)[^\s/:@\"']*:[^\s/@\"']+(?=@)",  # user:password in a URL
)

#: What a line with one of these shapes has to hold.
SECRET_SIGNS = ("whsec_", "k_live_", "k_test_", "://")


def configure(level: str, log_format: str, secrets: Iterable[str] = ()) -> None:
    """Set up logging for this process: ``level``, and ``json`` or ``console`` lines.

    ``secrets`` are replaced wherever they would be written, in tracebacks as well.
    """
    render = _renderer(log_format, secrets)
    structlog.configure(
        processors=[*_shared_processors(), structlog.processors.format_exc_info, render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=StandardError,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(StandardError())
    handler.setFormatter(_foreign_formatter(render))
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)


def _shared_processors() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]


def _foreign_formatter(render: Processor) -> logging.Formatter:
    """Return the formatter for lines of the standard library's loggers."""
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*_shared_processors(), structlog.stdlib.add_logger_name],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            render,
        ],
    )


def _renderer(log_format: str, secrets: Iterable[str]) -> Processor:
    render: Callable[..., Any]
    if log_format == "json":
        render = structlog.processors.JSONRenderer()
    else:
        render = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(),
            sort_keys=False,
            exception_formatter=structlog.dev.plain_traceback,  # the rich one shows locals
        )
    redact = redactor(secrets)

    def render_redacted(logger: WrappedLogger, method: str, event_dict: EventDict) -> str:
        first = {name: event_dict.pop(name) for name in FIRST if name in event_dict}
        return redact(str(render(logger, method, {**first, **event_dict})))

    return render_redacted


def redactor(secrets: Iterable[str]) -> Callable[[str], str]:
    """Return a function that takes the ``secrets``, and all that looks like one, out of a text."""
    # As they are, and as they stand in JSON.
    own = {form for secret in secrets for form in (secret, json.dumps(secret)[1:-1])}
    pattern = re.compile("|".join([*map(re.escape, own), *SECRET_SHAPES]))
    signs = [*own, *SECRET_SIGNS]

    def redact(line: str) -> str:
        # Nearly no line holds a secret, and looking for a word costs far less than a pattern.
        if any(sign in line for sign in signs):
            return pattern.sub("[redacted]", line)
        return line

    return redact


class StandardError:
    """Writes whole lines to standard error, as it is at that moment.

    One write a line, so that the lines of several processes do not mix.
    """

    def __init__(self, *_names: object) -> None:
        """Take and ignore the names that structlog gives to a logger."""

    def msg(self, message: str) -> None:
        """Write one line."""
        self.write(message + "\n")

    debug = info = warning = error = critical = exception = fatal = log = msg

    def write(self, text: str) -> None:
        """Write ``text``. The standard library's handler calls this one, line end included."""
        # A full disk or a closed pipe behind standard error must not fail a delivery.
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(text)
            sys.stderr.flush()

    def flush(self) -> None:
        """Do nothing: each line was flushed as it was written."""


class GunicornLogger(Logger):  # type: ignore[misc]  # gunicorn has no type information
    """gunicorn's own lines, in the format of all the others."""

    def setup(self, cfg: Any) -> None:
        """Let gunicorn's lines go to the root logger, which ``configure`` has set up."""
        super().setup(cfg)
        for logger in (self.error_log, self.access_log):
            logger.handlers.clear()
        self.error_log.propagate = True
