"""The log lines of libraries, in the format of the service."""

from __future__ import annotations

import logging
from typing import Any

from app.log.lines import LineRenderer
from app.log.stream import output

#: Loggers that log nothing below WARNING, whatever LOG_LEVEL says. The SDK logs URLs at INFO, and
#: whole answers with customers' data at DEBUG.
QUIET_LOGGERS = ("stripe", "urllib3", "sqlalchemy", "alembic", "psycopg")


def capture(renderer: LineRenderer, level: str) -> None:
    """Let ``renderer`` format the lines of the standard library's loggers from ``level`` on."""
    logging.basicConfig(handlers=[Handler(renderer)], level=level.upper(), force=True)
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    # It warns of a pipeline that has failed, and raises the error as well.
    logging.getLogger("psycopg").setLevel(logging.ERROR)
    logging.captureWarnings(capture=True)
    logging.raiseExceptions = False  # otherwise a failing handler of a library prints a traceback
    # Replaced, because the standard library has no hook before it makes a record of ``extra``.
    logging.Logger.makeRecord = _make_record  # type: ignore[assignment,method-assign]  # replaced on purpose


class Handler(logging.Handler):
    """Writes the records of the standard library's loggers."""

    def __init__(self, renderer: LineRenderer) -> None:
        """Take the ``renderer`` of lines."""
        super().__init__()
        self._renderer = renderer

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record. Raises nothing."""
        values: dict[str, object] = {"logger": record.name}
        try:
            values["event"] = record.getMessage()
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: BLE001 - an argument's own code can raise anything
            values |= {"event": record.msg, "args": record.args}
        if record.exc_info:
            values["exc_info"] = record.exc_info
        if record.stack_info:
            values["stack_info"] = record.stack_info
        output.msg(self._renderer(None, record.levelname.lower(), values))


_make_any_record = logging.Logger.makeRecord


def _make_record(logger: logging.Logger, *given: Any, **named: Any) -> logging.LogRecord:
    """Make a record. When that raises, make it without arguments and ``extra``.

    ``extra`` raises when it holds a field that every record has, such as ``name``.
    """
    try:
        return _make_any_record(logger, *given, **named)
    except Exception:  # noqa: BLE001 - an argument's own code can raise anything
        name, level, file, line, message, _args, exc_info, *_ = given
        return _make_any_record(logger, name, level, file, line, message, (), exc_info)
