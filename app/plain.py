"""Values of any kind as plain data, for a line of the log.

A callback may log anything: circular lists, objects whose ``__repr__`` raises, integers of a
million digits. Nothing of that may raise, or take more room than a line has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from app.text import type_name

T = TypeVar("T")

#: Characters of a text that needs no shortening.
TEXT_LENGTH = 4000
#: Characters of a field's name.
NAME_LENGTH = 200
#: Bits of an integer that is written as a number: more than readers of JSON take.
INTEGER_BITS = 64
#: How deep lists and dictionaries are written.
DEPTH = 8
#: Characters that count for each value beside its text: quotes, commas, digits.
VALUE_LENGTH = 24
#: Characters that any text gets, at least.
LEAST_LENGTH = 100


def is_plain(name: str, value: Any) -> bool:
    """Whether a field needs no change: a short printable name, and a plain and short value."""
    if len(name) > NAME_LENGTH or not name.isprintable():
        return False
    kind = type(value)
    if kind is str:
        return bool(len(value) <= TEXT_LENGTH and value.isprintable())
    if kind is int:
        return bool(value.bit_length() <= INTEGER_BITS)
    if kind is float:
        return math.isfinite(value)
    return value is None or kind is bool


class Plain:
    """Turns values into plain data, within a number of characters for all of them together."""

    def __init__(self, left: int, most: int, clean: Callable[[str, int], str]) -> None:
        """Take the characters that are ``left``, and how many one text gets at ``most``.

        ``clean`` returns a text in at most so many characters, as it may be written.
        """
        self.left = left
        self._most = most
        self._clean = clean

    def of(self, value: object, depth: int = 0) -> Any:
        """Return ``value`` as text, number, truth value, list or dictionary.

        Of what raises when it is looked at, the names of its type and of the error are returned.
        """
        self.left -= VALUE_LENGTH
        try:
            return self._of(value, depth)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - a value's own code can raise anything
            return self._text(f"<{type_name(value)}, not shown: {type_name(error)}>")

    def _of(self, value: Any, depth: int) -> Any:
        # By its type and the type's own functions: an object can say that it is of another class.
        kind = type(value)
        if value is None or kind is bool:
            return value
        if issubclass(kind, str):
            return self._text(str.__str__(value))
        if issubclass(kind, (int, float)):
            return _number(value, kind)
        if issubclass(kind, (bytes, bytearray)):
            return self._text(repr(value[: self._most]))
        if issubclass(kind, (dict, list, tuple, set, frozenset)):
            return self._container(value, kind, depth + 1)
        return self._text(repr(value))

    def _container(self, value: Any, kind: type, depth: int) -> Any:
        if depth > DEPTH:
            return "..."
        if issubclass(kind, dict):
            items = self._fitting(dict.items(value))
            return {self._name(name): self.of(item, depth) for name, item in items}
        return [self.of(item, depth) for item in self._fitting(value)]

    def _fitting(self, items: Iterable[T]) -> Iterator[T]:
        """Yield the items as long as there is room."""
        for item in items:
            if self.left <= 0:
                return
            yield item

    def _name(self, name: object) -> str:
        return str(self.of(name, DEPTH - 1))

    def _text(self, text: str) -> str:
        text = self._clean(text, max(LEAST_LENGTH, min(self._most, self.left)))
        self.left -= len(text)
        return text


def _number(value: Any, kind: type) -> int | float | str:
    """Return a number as JSON holds it, without what a subclass makes of it."""
    if issubclass(kind, float):
        real = float.__float__(value)
        return real if math.isfinite(real) else repr(real)
    bits = int.bit_length(value)
    return int.__int__(value) if bits <= INTEGER_BITS else f"<int of {bits} bits>"
