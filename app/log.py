"""structlog for our lines and for those of all libraries: one format, no secrets, no failure.

Lines go to standard error. What is logged never holds a body or local variables: nothing here
renders them, and SQLAlchemy is told to hide its parameters (``make_engine`` in
``app/inbox/engine/sqlite.py`` and ``app/inbox/engine/postgresql.py``).

No log call raises or loses its line. A value that cannot be rendered is replaced by a text that
says so. When the stream fails, the line goes to a copy of file descriptor 2.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog
from gunicorn.glogging import Logger

from app.plain import NAME_LENGTH, Plain, is_plain
from app.runtime import threads
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

#: Loggers that may not go below WARNING, whatever LOG_LEVEL says: the SDK's write URLs at
#: INFO and whole answers at DEBUG, and answers hold customers' data.
QUIET_LOGGERS = ("stripe", "urllib3", "sqlalchemy", "alembic", "psycopg")

#: What a reader looks for first, in this order.
FIRST = ("timestamp", "level", "event")

#: Bytes of a line, at most, without its line end.
LINE_BYTES = 32768

#: Characters of all values of a line that has to be shortened. The next is tried when characters
#: that are written as several bytes (12 in JSON) make the line too long. The last is short enough.
VALUES_LENGTHS = (24000, 6000, 1500)

#: Parts of these that one value gets, and the traceback.
VALUE_PART, TRACEBACK_PART = 1 / 6, 2 / 3

#: Lines of a thread that may not wait for standard error, at most.
MOST_WAITING = 1000

#: What structlog's console renderer writes as it stands, on one line.
BARE = (*FIRST, "logger", "logger_name")

#: The names of structlog's methods, and the level that each means.
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


def configure(level: str, log_format: str, secrets: Iterable[str] = ()) -> None:
    """Set up logging for this process: ``level``, and ``json`` or ``console`` lines.

    ``secrets`` are replaced wherever they would be written, in tracebacks as well. Lines go to
    standard error as it is now.
    """
    output.take()
    lines = Lines(log_format, secrets)
    structlog.configure(
        processors=[lines],
        wrapper_class=_logger_class(level),
        logger_factory=lambda *_names: output,
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[Handler(lines)], level=level.upper(), force=True)
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)
    logging.raiseExceptions = False  # a handler of a library prints a traceback when it fails
    # No hook of the standard library's is asked before a record is made of `extra`.
    logging.Logger.makeRecord = _make_record  # type: ignore[assignment,method-assign]  # replaced on purpose


class StandardError:
    """Writes whole lines to standard error, as it was when it was taken.

    It is not looked up again: ``contextlib.redirect_stderr`` replaces it for all threads, and two
    overlapping uses can leave a closed stream, or none, behind. One write a line, so that the
    lines of several processes do not mix.
    """

    def __init__(self) -> None:
        """Take nothing yet."""
        self._stream: Any = None
        self._spare = -1
        self._own = threading.local()

    def take(self) -> None:
        """Take standard error as it is now."""
        self._stream = sys.stderr  # None where a process is started without one
        # A copy of the descriptor: 2 itself can be closed, and then be given to a connection.
        with contextlib.suppress(OSError):
            self._spare = (
                os.dup(2) if self._spare < 0 else os.dup2(2, self._spare, inheritable=False)
            )

    @property
    def is_terminal(self) -> bool:
        """Whether a person reads it."""
        with contextlib.suppress(Exception):
            return bool(self._stream.isatty())
        return False

    def msg(self, message: str) -> None:
        """Write one line."""
        self.write(message + "\n")

    debug = info = warning = error = critical = exception = fatal = log = msg

    @contextlib.contextmanager
    def never_waiting(self) -> Iterator[None]:
        """Have another thread write what this thread says in the block.

        A pipe or a terminal that takes no more, because its reader has stopped, blocks all that
        write to it. When ``MOST_WAITING`` lines wait, further ones are lost.
        """
        lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        with contextlib.suppress(RuntimeError, MemoryError):  # no thread is left: it may wait
            threads.start("log", partial(self._write_all, lines))
            self._own.lines = lines
        try:
            yield
        finally:
            self._own.lines = None
            lines.put(None)

    def _write_all(self, lines: queue.SimpleQueue[str | None]) -> None:
        while (text := lines.get()) is not None:
            self._write(text)

    def write(self, text: str) -> None:
        """Write ``text``. A full disk or a closed pipe behind it must not fail a delivery."""
        lines = getattr(self._own, "lines", None)
        if lines is None:
            self._write(text)
        elif lines.qsize() < MOST_WAITING:
            lines.put(text)

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except Exception:  # noqa: BLE001 - the stream can be any object, and closed
            with contextlib.suppress(OSError):
                os.write(self._spare, text.encode("utf-8", "replace"))


#: Where the lines of this process go. ``configure`` takes it anew.
output = StandardError()


class Lines:
    """The only processor of structlog: it renders any event as one line."""

    def __init__(self, log_format: str, secrets: Iterable[str]) -> None:
        """Take ``json`` or ``console``, and what is to be redacted."""
        self._redact = redactor(secrets)
        self._console = None if log_format == "json" else _console_renderer()

    def __call__(self, _logger: WrappedLogger, method: str, event_dict: EventDict) -> str:
        """Return the line of one event, without its end. Raises nothing."""
        event = event_dict.get("event")
        try:
            return self._line(method, event_dict)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - see above
            rest = {"event": event} if is_plain("event", event) else {"event": "line_not_rendered"}
            return self._line(method, {**rest, "not_rendered": type_name(error)})

    def _line(self, method: str, event_dict: EventDict) -> str:
        for process in _PROCESSORS:
            process(None, method, event_dict)  # each of them changes it in place
        error = _error(event_dict.pop("exc_info", None))
        first = {name: event_dict.pop(name) for name in FIRST if name in event_dict}
        fields = {**first, **event_dict}
        if error is None and all(is_plain(*field) for field in fields.items()):
            line = self._render(fields)
            if len(line) <= LINE_BYTES // 4:  # UTF-8 has four bytes for a character at most
                return line
        return self._shortened(fields, error)

    def _shortened(self, fields: EventDict, error: BaseException | None) -> str:
        """Return a line of ``LINE_BYTES`` at most, for any fields."""
        lines = (self._render(self._fitted(fields, error, length)) for length in VALUES_LENGTHS)
        return next(line for line in lines if len(line.encode("utf-8", "replace")) <= LINE_BYTES)

    def _fitted(self, fields: EventDict, error: BaseException | None, length: int) -> EventDict:
        """Return plain fields in the same order, in ``length`` characters."""
        trace = {} if error is None else {"exception": self._traceback(error, length)}
        left = length - sum(map(len, trace.values()))
        plain = Plain(left, int(length * VALUE_PART), self._clean)
        # The identifiers of the event are kept before the values that a callback logs.
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
        most = int(length * TRACEBACK_PART)
        return self._clean(printed_traceback(error, most, self._redact).rstrip(), most)

    def _clean(self, text: str, most: int) -> str:
        """Return ``text`` in at most ``most`` characters, as this format may hold it."""
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
    """Return the exception that is meant by what log calls take as ``exc_info``."""
    if isinstance(exc_info, tuple):  # as sys.exc_info() returns it
        exc_info = exc_info[1] if len(exc_info) > 1 else None
    elif exc_info and not isinstance(exc_info, BaseException):
        exc_info = sys.exc_info()[1]
    return exc_info if isinstance(exc_info, BaseException) else None


def _logger_class(level: str) -> type:
    """Return structlog's own class for ``level``, with methods that do not raise."""
    base = structlog.make_filtering_bound_logger(level)
    least = logging.getLevelNamesMapping()[level.upper()]
    return type(
        base.__name__, (base,), {name: _method(name, least) for name in METHODS} | {"log": _log}
    )


def _method(name: str, least: int) -> Callable[..., None]:
    """Return the method ``name``, which says nothing below the level ``least``."""
    level = METHODS[name]
    is_silent = logging.getLevelNamesMapping()[level.upper()] < least
    beside = {"exc_info": True} if name == "exception" else {}

    # All names stay free for values. structlog's own methods take four of them for themselves.
    def call(self: Any, event: object = None, /, *args: object, **values: object) -> None:
        if not is_silent:
            _say(self, level, event, args, {**beside, **values})

    return call


def _log(
    self: Any, level: object = None, event: object = None, /, *args: object, **values: object
) -> None:
    name = logging.getLevelName(level).lower() if isinstance(level, int) else ""
    getattr(self, name if name in METHODS else "info")(event, *args, **values)


def _say(
    logger: Any, level: str, event: Any, args: tuple[object, ...], values: dict[str, object]
) -> None:
    """Log an ``event`` formatted with its arguments, or with them as a field if that fails."""
    if args:
        try:
            event %= args[0] if len(args) == 1 and isinstance(args[0], dict) else args
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: BLE001 - an argument's own code can raise anything
            values["args"] = args
    if "event" in values:
        values["event_"] = values.pop("event")
    with contextlib.suppress(structlog.DropEvent):  # a test that captures events raises it
        (line,), _ = logger._process_event(level, event, values)  # noqa: SLF001 - meant for such classes
        logger._logger.msg(line)  # noqa: SLF001 - the same


class Handler(logging.Handler):
    """Writes the records of the standard library's loggers in the same form."""

    def __init__(self, lines: Lines) -> None:
        """Take what makes ``lines``."""
        super().__init__()
        self._lines = lines

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
        output.msg(self._lines(None, record.levelname.lower(), values))


_make_any_record = logging.Logger.makeRecord


def _make_record(logger: logging.Logger, *given: Any, **named: Any) -> logging.LogRecord:
    """Make a record, without arguments and ``extra`` when they cannot be taken.

    ``extra`` raises when it names a field that records have, such as ``name``.
    """
    try:
        return _make_any_record(logger, *given, **named)
    except Exception:  # noqa: BLE001 - an argument's own code can raise anything
        name, level, file, line, message, _args, exc_info, *_ = given
        return _make_any_record(logger, name, level, file, line, message, (), exc_info)


class GunicornLogger(Logger):  # type: ignore[misc]  # gunicorn has no type information
    """gunicorn's own lines, in the format of all the others."""

    def setup(self, cfg: Any) -> None:
        """Let gunicorn's lines go to the root logger, which ``configure`` has set up."""
        super().setup(cfg)
        for logger in (self.error_log, self.access_log):
            logger.handlers.clear()
        self.error_log.propagate = True
