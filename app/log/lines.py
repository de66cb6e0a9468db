"""Renders an event of the log as one line, for any event."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import structlog

from app import tracebacks
from app.log.plain import NAME_LENGTH, Plain, is_plain
from app.log.stream import output
from app.text import (
    LINES,
    as_json,
    bounded,
    printable,
    printed_traceback,
    redactor,
    storable,
    type_name,
)

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor, WrappedLogger

#: The first fields of a line, in this order.
FIRST = ("timestamp", "level", "event")

#: The maximum length of a line in bytes, without its line end.
LINE_BYTES = 32768

#: The characters of all values in a line that has to be shortened. The next number is tried when
#: UTF-8 or JSON needs more bytes for them, up to 12 a character. The last is short enough.
VALUES_LENGTHS = (24000, 6000, 1500)

#: The shares of them for one value, and for the traceback.
VALUE_SHARE, TRACEBACK_SHARE = 1 / 6, 2 / 3

#: How to get the frames that a console line leaves out.
MORE_FRAMES = "LOG_LEVEL=debug"

#: The fields that structlog's console renderer writes unquoted, on one line.
BARE = (*FIRST, "logger", "logger_name")


class LineRenderer:
    """The only processor of structlog: it renders any event as one line."""

    def __init__(
        self, log_format: str, secrets: Iterable[str], *, package: str, full: bool
    ) -> None:
        """Take ``json`` or ``console``, and the ``secrets`` to redact.

        In ``console``, a traceback with frames of the handler ``package`` has no others, unless
        ``full``.
        """
        self._redact = redactor(secrets)
        self._package = package
        self._full = full
        self._console = None if log_format == "json" else _console_renderer()

    def __call__(self, _logger: WrappedLogger, method: str, event_dict: EventDict) -> str:
        """Return the line of one event, without a line end. Raises nothing."""
        event = event_dict.get("event")
        try:
            return self._line(method, event_dict)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - a value's own code can raise anything
            rest = {"event": event} if is_plain("event", event) else {"event": "line_not_rendered"}
            return self._line(method, {**rest, "not_rendered": type_name(error)})

    def _line(self, method: str, event_dict: EventDict) -> str:
        for process in _PROCESSORS:
            process(None, method, event_dict)  # changes event_dict in place
        error = _error(event_dict.pop("exc_info", None))
        first = {name: event_dict.pop(name) for name in FIRST if name in event_dict}
        fields = {**first, **event_dict}
        if error is None and all(is_plain(*field) for field in fields.items()):
            line = self._render(fields)
            if len(line) <= LINE_BYTES // 4:  # UTF-8 needs at most four bytes a character
                return line
        return self._shortened(fields, error)

    def _shortened(self, fields: EventDict, error: BaseException | None) -> str:
        """Return a line of at most ``LINE_BYTES``, for any fields."""
        lines = (self._render(self._fitted(fields, error, length)) for length in VALUES_LENGTHS)
        return next(line for line in lines if len(line.encode("utf-8", "replace")) <= LINE_BYTES)

    def _fitted(self, fields: EventDict, error: BaseException | None, length: int) -> EventDict:
        """Return the fields as plain data in the same order, in at most ``length`` characters."""
        trace = {} if error is None else {"exception": self._traceback(error, length)}
        left = length - sum(map(len, trace.values()))
        plain = Plain(left, int(length * VALUE_SHARE), self._clean)
        # Identifiers of the event come before the values of a callback, which may not fit.
        bound = structlog.contextvars.get_contextvars()
        names = sorted(
            fields, key=lambda name: (not is_plain(name, fields[name]), name not in bound)
        )
        made = {}
        for name in names:
            if plain.left > 0:
                plain.left -= len(name[:NAME_LENGTH])
                made[name] = plain.of(fields[name])
        cut = {} if plain.left > 0 else {"cut": True}
        fitted = {self._name(name): made[name] for name in fields if name in made}
        return {**fitted, **cut, **trace}

    def _traceback(self, error: BaseException, length: int) -> str:
        most = int(length * TRACEBACK_SHARE)
        text = self._clean(printed_traceback(error, most, self._redact).rstrip(), most)
        if self._console is None:
            return text
        parsed = tracebacks.parse(text, self._package)
        return parsed.full if self._full or not parsed.is_own else parsed.brief(MORE_FRAMES)

    def _clean(self, text: str, most: int) -> str:
        """Return ``text`` as this format allows it, in at most ``most`` characters."""
        if len(text) > most:
            text = bounded(text, most, self._redact)
        return storable(text) if self._console is None else printable(text, LINES)

    def _name(self, name: str) -> str:
        return printable(name if len(name) <= NAME_LENGTH else self._clean(name, NAME_LENGTH))

    def _render(self, fields: EventDict) -> str:
        if self._console is None:
            return self._redact(as_json(fields))
        bare = {name: printable(str(fields[name])) for name in BARE if name in fields}
        texts = {name: str(fields[name]) for name in ("exception", "stack") if name in fields}
        return self._redact(str(self._console(None, "", {**fields, **bare, **texts})))


_PROCESSORS: tuple[Processor, ...] = (
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
)


def _console_renderer() -> structlog.dev.ConsoleRenderer:
    return structlog.dev.ConsoleRenderer(colors=output.is_terminal, sort_keys=False)


def _error(exc_info: Any) -> BaseException | None:
    """Return the exception of the ``exc_info`` of a log call."""
    if isinstance(exc_info, tuple):  # sys.exc_info() returns one
        exc_info = exc_info[1] if len(exc_info) > 1 else None
    elif exc_info and not isinstance(exc_info, BaseException):
        exc_info = sys.exc_info()[1]
    return exc_info if isinstance(exc_info, BaseException) else None
