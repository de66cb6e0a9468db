"""Converts any value to plain data for a log line.

A callback may log anything: circular lists, objects whose ``__repr__`` raises, integers of a
million digits. None of them may raise, or take more space than a line has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from app.text import type_name

T = TypeVar("T")

#: A text of at most this many characters needs no shortening.
TEXT_LENGTH = 4000
#: The maximum length of a field's name, in characters.
NAME_LENGTH = 200
#: An integer of more bits is not written as a number. JSON readers take fewer.
INTEGER_BITS = 64
#: The maximum depth of lists and dictionaries.
DEPTH = 8
#: Characters that each value costs beside its text: quotes, commas, digits.
VALUE_LENGTH = 24
#: The minimum length that any text may have, in characters.
MIN_LENGTH = 100


def is_plain(name: str, value: Any) -> bool:
    """Return whether a field needs no change: its name and its value are plain and short."""
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
    """Converts values to plain data, in a limited number of characters for all of them."""

    def __init__(self, left: int, most: int, clean: Callable[[str, int], str]) -> None:
        """Take the characters that are ``left`` for all values, and the maximum for one text.

        ``clean`` shortens a text to a number of characters, and makes it fit to be written.
        """
        self.left = left
        self._most = most
        self._clean = clean

    def of(self, value: object, depth: int = 0) -> Any:
        """Return ``value`` as text, number, bool, None, list or dictionary.

        For a value that raises, it returns the names of its type and of the error.
        """
        self.left -= VALUE_LENGTH
        try:
            return self._of(value, depth)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - a value's own code can raise anything
            return self._text(f"<{type_name(value)}, not shown: {type_name(error)}>")

    def _of(self, value: Any, depth: int) -> Any:
        # By type(), and with functions of built-in types: an object can lie about its class.
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
        """Yield items while characters are left."""
        for item in items:
            if self.left <= 0:
                return
            yield item

    def _name(self, name: object) -> str:
        return str(self.of(name, DEPTH - 1))

    def _text(self, text: str) -> str:
        text = self._clean(text, max(MIN_LENGTH, min(self._most, self.left)))
        self.left -= len(text)
        return text


def _number(value: Any, kind: type) -> int | float | str:
    """Return a number for JSON, without the methods of its subclass."""
    if issubclass(kind, float):
        real = float.__float__(value)
        return real if math.isfinite(real) else repr(real)
    bits = int.bit_length(value)
    return int.__int__(value) if bits <= INTEGER_BITS else f"<int of {bits} bits>"
