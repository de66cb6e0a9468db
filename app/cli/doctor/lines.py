"""One line of the doctor's: how it is, what it is about, and what to do."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import click

from app.cli.output import say
from app.text import printable

#: Columns of the words in front.
_LEVEL, _WHAT = 4, 12
_COLOURS = {"OK": "green", "WARN": "yellow", "FAIL": "red"}


class Level(IntEnum):
    """How it is. The worst decides the exit status."""

    OK = 0
    WARN = 1
    FAIL = 2


class Line(NamedTuple):
    """What was found about one thing, and what to do about it unless it is OK."""

    level: Level
    what: str
    text: str
    remedy: str = ""

    def show(self) -> None:
        """Print it, with the remedy below."""
        name = self.level.name
        level = click.style(f"{name:<{_LEVEL}}", fg=_COLOURS[name])
        click.echo(f"{level}  {self.what:<{_WHAT}}  {printable(self.text)}")
        if self.remedy:
            say(f"{'':{_LEVEL}}  {'':{_WHAT}}  -> {self.remedy}")


def duration(seconds: float) -> str:
    """Return a duration in the largest unit that fits, rounded down."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


def count(number: int, word: str) -> str:
    """Return the number with its word, in the plural unless it is one."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def few(names: list[str], most: int = 5) -> str:
    """Return the names with commas, the first ``most`` of them."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
