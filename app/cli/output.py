"""What the commands print, so that nothing in it steers the terminal."""

from __future__ import annotations

from typing import Any

import click

from app.text import LINES, as_json, printable


def say(text: str = "", *, err: bool = False) -> None:
    """Print ``text`` and a line end. Of its control characters only line ends and tabs are left."""
    click.echo(printable(text, LINES), err=err)


def say_json(value: Any) -> None:
    """Print ``value`` as JSON, for other programs."""
    click.echo(as_json(value, indent=2))


def say_table(rows: list[tuple[str, ...]]) -> None:
    """Print rows of cells, each on one line, and each column as wide as its widest cell."""
    shown = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for row in shown:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())
