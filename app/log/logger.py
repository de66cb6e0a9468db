"""The class of all structlog loggers: structlog's own, with methods that do not raise."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any

import structlog

#: The names of structlog's methods, and the level of each.
METHODS = {
    "debug": "debug",
    "info": "info",
    "msg": "info",
    "warning": "warning",
    "warn": "warning",
    "error": "error",
    "exception": "error",
    "critical": "critical",
    "fatal": "critical",
}


def logger_class(level: int) -> type:
    """Return a class for structlog whose methods log nothing below ``level``."""
    base = structlog.make_filtering_bound_logger(level)
    methods = {name: _method(name, level) for name in METHODS}
    return type(base.__name__, (base,), {**methods, "log": _log})


def _method(name: str, minimum: int) -> Callable[..., None]:
    level = METHODS[name]
    is_silent = logging.getLevelNamesMapping()[level.upper()] < minimum
    defaults = {"exc_info": True} if name == "exception" else {}

    # Positional only, so that a field can have any name. structlog's own methods reserve four.
    def call(self: Any, event: object = None, /, *args: object, **values: object) -> None:
        if not is_silent:
            _write(self, level, event, args, {**defaults, **values})

    return call


def _log(
    self: Any, level: object = None, event: object = None, /, *args: object, **values: object
) -> None:
    name = logging.getLevelName(level).lower() if isinstance(level, int) else ""
    getattr(self, name if name in METHODS else "info")(event, *args, **values)


def _write(
    logger: Any, level: str, event: Any, args: tuple[object, ...], values: dict[str, object]
) -> None:
    """Log ``event`` formatted with ``args``. If formatting fails, ``args`` become a field."""
    if args:
        try:
            event %= args[0] if len(args) == 1 and isinstance(args[0], dict) else args
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: BLE001 - an argument's own code can raise anything
            values["args"] = args
    if "event" in values:
        values["event_"] = values.pop("event")
    with contextlib.suppress(structlog.DropEvent):  # structlog.testing.capture_logs raises it
        (line,), _ = logger._process_event(level, event, values)  # noqa: SLF001 - meant for such classes
        logger._logger.msg(line)  # noqa: SLF001 - the same
