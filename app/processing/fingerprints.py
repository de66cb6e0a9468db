"""Finds the error group of an exception, so that failures can be counted by cause.

The fingerprint is a hash of the exception's type and of the place where it was raised: the file,
the function and the source text of the line. It has no line number, so it stays the same when code
above moves. It has no text of the exception, and no value of a variable.
"""

from __future__ import annotations

import hashlib
import linecache
import re
import traceback
from collections import Counter
from collections.abc import Iterable
from types import CodeType, FrameType
from typing import NamedTuple

from app.text import printable, type_name
from app.tracebacks import own_file

#: The length of a fingerprint in hexadecimal digits, and of the texts that a person reads.
DIGITS = 12
NAME_LENGTH = 200

#: Exceptions of one chain that are examined: an ExceptionGroup can have any number.
MOST_EXCEPTIONS = 100

UNKNOWN = "unknown"

#: The folders of installed packages and of the standard library, up to their content.
_ROOT = re.compile(r"^.*/(?:(?:site|dist)-packages|python3\.[0-9]+)/")
_SDK = "stripe/"

#: The modules that call the SDK's handler, and that lead from it to the callback.
_CALLERS = frozenset(
    f"app.processing.{each}" for each in ("runner", "router", "handler_module", "around")
)


class Cause(NamedTuple):
    """The error group of a failure: its fingerprint, the type of the exception, and the place.

    ``place`` is a file and a line: ``handlers/v1_invoice_paid.py:31``.
    """

    fingerprint: str
    exception: str
    place: str


class _Origin(NamedTuple):
    """The type of an exception, and the line that raised it. The line number is not hashed."""

    exception: str
    file: str
    function: str
    source: str
    line: int

    def cause(self) -> Cause:
        text = "\0".join(self[:-1]).encode("utf-8", "backslashreplace")
        fingerprint = hashlib.sha256(text).hexdigest()[:DIGITS]
        place = f"{self.file}:{self.line}" if self.line else self.file
        return Cause(fingerprint, _clean(self.exception), _clean(place))


class _Line(NamedTuple):
    """One frame of a traceback: its code and globals, its file in short, and its line."""

    frame: FrameType
    number: int
    own: str | None
    """The file relative to the folder of the handler package, or None for other code."""

    @property
    def code(self) -> CodeType:
        return self.frame.f_code

    @property
    def module(self) -> object:
        return self.frame.f_globals.get("__name__")

    @property
    def file(self) -> str:
        return self.own or _short(self.code.co_filename)

    def origin(self, exception: str) -> _Origin:
        source = linecache.getline(self.code.co_filename, self.number, self.frame.f_globals)
        # Without a source file, the distance from the first line is the stable part.
        offset = f"+{self.number - self.code.co_firstlineno}"
        return _Origin(
            exception, self.file, self.code.co_qualname, source.strip() or offset, self.number
        )


def cause_of(error: BaseException, package: str) -> Cause:
    """Return the error group of an ``error``, for a team with this handler ``package``.

    The place is the innermost line of the team's code, else of the SDK, else of any code. An
    explicit cause (``raise ... from error``) counts, and not what was raised from it: a helper that
    wraps every error would make one group of them all. Of an ``ExceptionGroup``, one of its
    exceptions counts. Raises nothing.
    """
    try:
        origin = _own_origin(error, package, []) or _other_origin(error, package)
    except BaseException:  # noqa: BLE001 - attributes of an exception run the team's code
        origin = _Origin(type_name(error), UNKNOWN, "", "", 0)
    return origin.cause()


def _own_origin(error: BaseException, package: str, seen: list[int]) -> _Origin | None:
    """Return the first cause that was raised in the team's code, or None."""
    if id(error) in seen or len(seen) >= MOST_EXCEPTIONS:
        return None
    seen.append(id(error))
    found = [_own_origin(each, package, seen) for each in _causes(error)]
    # The exceptions of a group can come in another order the next time.
    if origins := list(filter(None, found)):
        return min(origins)
    if isinstance(error, SyntaxError) and (file := own_file(str(error.filename), package)):
        # The line that cannot be compiled, in a module that the team imports late.
        source = linecache.getline(str(error.filename), error.lineno or 0).strip()
        return _Origin(_name(error), file, "<module>", source, error.lineno or 0)
    own = [each for each in _lines(error, package) if each.own]
    return _innermost(error, own).origin(_name(error)) if own else None


def _causes(error: BaseException) -> Iterable[BaseException]:
    if error.__cause__ is not None:
        yield error.__cause__
    if isinstance(error, BaseExceptionGroup):
        yield from error.exceptions[:MOST_EXCEPTIONS]


def _other_origin(error: BaseException, package: str) -> _Origin:
    """Return the innermost line of the SDK, else of any code."""
    lines = _lines(error, package)
    if not lines:
        return _Origin(_name(error), UNKNOWN, "", "", 0)
    # The SDK's lines before the last one of these only lead to the callback.
    ours = [at for at, each in enumerate(lines) if each.module in _CALLERS]
    inside = lines[ours[-1] + 1 :] if ours else lines
    sdk = [each for each in inside if each.file.startswith(_SDK)]
    return (sdk or inside or lines)[-1].origin(_name(error))


def _innermost(error: BaseException, lines: list[_Line]) -> _Line:
    """Return the last of these lines, or the first line of the recursion.

    The last line of an endless recursion depends on the depth at which it began.
    """
    if isinstance(error, RecursionError):
        calls = Counter(each.code for each in lines)
        return next((each for each in lines if calls[each.code] > 1), lines[-1])
    return lines[-1]


def _lines(error: BaseException, package: str) -> list[_Line]:
    frames = traceback.walk_tb(error.__traceback__)
    return [_Line(each, at, own_file(each.f_code.co_filename, package)) for each, at in frames]


def _short(path: str) -> str:
    """Return a path without the folders of one machine."""
    path = path.replace("\\", "/")
    if root := _ROOT.match(path):
        return path[root.end() :]
    _, service, inside = path.rpartition("/app/")
    return f"app/{inside}" if service else path.rpartition("/")[2]


def _name(error: BaseException) -> str:
    """Return the type of an exception as Python prints it, without private modules.

    ``stripe._error.CardError`` is ``stripe.CardError``.
    """
    kind = type(error)
    module = type.__dict__["__module__"].__get__(kind)
    name = type.__dict__["__qualname__"].__get__(kind)
    parts = [each for each in str(module).split(".") if not each.startswith("_")]
    return ".".join([*parts, str(name)] if parts != ["builtins"] else [str(name)])


def _clean(text: str) -> str:
    """Return a name in ASCII, which a database of any encoding stores."""
    return printable(text).encode("ascii", "backslashreplace").decode()[:NAME_LENGTH]
