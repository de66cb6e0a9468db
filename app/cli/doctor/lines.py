"""One line of the output: the level, the subject, the finding, and what to do."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import click

from app.cli.output import say, writing
from app.text import printable

#: Widths of the columns.
_LEVEL, _WHAT = 4, 12
_COLOURS = {"OK": "green", "WARN": "yellow", "FAIL": "red"}


class Level(IntEnum):
    """The level of a finding. The highest one decides the exit status."""

    OK = 0
    WARN = 1
    FAIL = 2


class Line(NamedTuple):
    """One finding, and what to do about it unless it is OK."""

    level: Level
    what: str
    text: str
    remedy: str = ""

    def show(self) -> None:
        """Print the line, and the remedy below it."""
        name = self.level.name
        level = click.style(f"{name:<{_LEVEL}}", fg=_COLOURS[name])
        with writing():
            click.echo(f"{level}  {self.what:<{_WHAT}}  {printable(self.text)}")
        if self.remedy:
            say(f"{'':{_LEVEL}}  {'':{_WHAT}}  -> {self.remedy}")
