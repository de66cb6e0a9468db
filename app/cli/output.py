"""Output of the commands, without characters that control the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from app.text import LINES, as_json, printable

if TYPE_CHECKING:
    from collections.abc import Sequence


def say(line: str = "", *, err: bool = False) -> None:
    """Print ``line`` as one line, without its control characters."""
    click.echo(printable(line), err=err)


def say_lines(text: str) -> None:
    """Print a text of several lines. Of its control characters line ends and tabs are left."""
    click.echo(printable(text, LINES))


def say_json(value: Any) -> None:
    """Print ``value`` as JSON, for other programs."""
    click.echo(as_json(value, indent=2))


def say_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows of cells, each on one line, and each column as wide as its widest cell."""
    shown = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for row in shown:
        say("  ".join(map(str.ljust, row, widths)).rstrip())
