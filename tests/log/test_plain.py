"""Any value can become plain data."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from enum import IntEnum
from http import HTTPStatus
from typing import Any

import pytest

from app.log.plain import Plain, is_plain


class Raising:
    """Raises at every access."""

    def __init__(self, error: type[BaseException]) -> None:
        """Take the error to raise."""
        self._error = error

    def __repr__(self) -> str:
        """Raise."""
        raise self._error

    __str__ = __repr__


class Liar:
    """An object that claims to be a string."""

    __class__ = str  # type: ignore[assignment]  # that is the lie


class RaisingDict(dict[str, int]):
    """A dictionary whose own methods raise."""

    def items(self) -> Any:
        """Raise."""
        raise TypeError

    def __iter__(self) -> Iterator[str]:
        """Raise."""
        raise TypeError


class Seven(IntEnum):
    """A subclass of int."""

    NUMBER = 7


class Text(str):
    """A string that lies about itself."""

    __slots__ = ()

    def __str__(self) -> str:
        """Raise."""
        raise TypeError

    def __len__(self) -> int:
        """Lie."""
        return 0


def plain(value: object, left: int = 10_000, most: int = 1000) -> Any:
    """Convert a value, and check that it is JSON."""
    made = Plain(left, most, lambda text, length: text[:length]).of(value)
    json.dumps(made, allow_nan=False)
    return made


CIRCULAR: list[Any] = [1]
CIRCULAR.append(CIRCULAR)
UUID = uuid.UUID(int=1)


PAIRS: list[tuple[Any, Any]] = [
    (None, None),
    (True, True),
    (5, 5),
    (Seven.NUMBER, 7),
    (HTTPStatus.OK, 200),
    (10**5000, "<int of 16610 bits>"),
    (0.5, 0.5),
    (float("nan"), "nan"),
    (float("-inf"), "-inf"),
    ("text", "text"),
    (Text("text"), "text"),
    (b"\x00\xff", r"b'\x00\xff'"),
    (bytearray(b"x"), "bytearray(b'x')"),
    (UUID, repr(UUID)),
    ((1, [2, {3}]), [1, [2, [3]]]),
    ({"a": {"b": UUID}}, {"a": {"b": repr(UUID)}}),
    ({(1, 2): 3, UUID: 4, None: 5, 6: 7}, {"[1, 2]": 3, repr(UUID): 4, "None": 5, "6": 7}),
    ({Raising(ValueError): 1}, {"<Raising, not shown: ValueError>": 1}),
    (RaisingDict(a=1), {"a": 1}),
    (CIRCULAR, [1, [1, [1, [1, [1, [1, [1, [1, "..."]]]]]]]]),
    ([Raising(ValueError), 1], ["<Raising, not shown: ValueError>", 1]),
    (Raising(SystemExit), "<Raising, not shown: SystemExit>"),
    (Raising(RecursionError), "<Raising, not shown: RecursionError>"),
]


# By number: pytest would call str() on the integer.
@pytest.mark.parametrize(("value", "made"), PAIRS, ids=map(str, range(len(PAIRS))))
def test_any_value_becomes_plain(value: object, made: object) -> None:
    """Any value and any error that it raises becomes plain data."""
    assert plain(value) == made


def test_object_that_lies_about_its_class_is_printed() -> None:
    """No method of an object that claims to be a string is called."""
    assert "Liar object" in plain(Liar())


def test_ctrl_c_is_raised() -> None:
    """Ctrl-C ends the process, not only the conversion."""
    with pytest.raises(KeyboardInterrupt):
        plain(Raising(KeyboardInterrupt))


@pytest.mark.parametrize(
    "value",
    [
        "x" * 10**7,
        b"x" * 10**7,
        ["x" * 10**7] * 100,
        list(range(10**6)),
        {str(number): number for number in range(10**5)},
        {"k" * 10**7: "v" * 10**7},
        [[["x" * 300] * 100] * 100] * 100,
    ],
    ids=["text", "bytes", "texts", "numbers", "fields", "name", "nested"],
)
def test_size_is_bounded(value: object) -> None:
    """However large a value is, its plain data has about the length that is left."""
    assert len(json.dumps(plain(value, left=5000, most=1000))) < 10_000


@pytest.mark.parametrize("value", [None, True, -1, 2**64 - 1, 0.5, "text", "x" * 4000])
def test_plain_fields(value: object) -> None:
    """Nearly all fields are plain and written without a change."""
    assert is_plain("name", value)
    assert plain(value, most=4000) == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("name", "x" * 4001),
        ("name", "two\nlines"),
        ("name", 2**64),
        ("name", float("nan")),
        ("name", [1]),
        ("name", Text("x")),
        ("name", Seven.NUMBER),
        ("n" * 201, 1),
        ("na\nme", 1),
    ],
)
def test_other_fields_are_not_plain(name: str, value: object) -> None:
    """Other fields are converted."""
    assert not is_plain(name, value)
