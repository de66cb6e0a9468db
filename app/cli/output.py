"""Output of all commands: one form for tables, numbers, times and JSON.

Nothing here prints a character that controls the terminal.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO, TypeVar, cast

import click

from app.formats import counted, duration, few, iso_time, mode, plural, sentence, shortened
from app.text import LINES, as_json, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

# Commands take all of these from here.
__all__ = [
    "OutputError",
    "confirm",
    "counted",
    "duration",
    "few",
    "iso_time",
    "json_option",
    "mode",
    "plural",
    "progress",
    "say",
    "say_beside_progress",
    "say_json",
    "say_lines",
    "say_on_terminal",
    "say_table",
    "sentence",
    "shortened",
    "writing",
]

T = TypeVar("T")

#: Deletes the rest of a line of a terminal.
_CLEAR = "\x1b[K"
#: The width of a progress bar, in characters. Log lines are longer, and overwrite it completely.
_BAR_WIDTH = 20

#: The option of commands that can print JSON.
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


class OutputError(click.ClickException):
    """Standard output cannot be written, for example because its disk is full."""


@contextmanager
def writing() -> Iterator[None]:
    """Turn a failed write of the output into an ``OutputError``.

    A broken pipe stays one: Click then ends the command in silence, as ``| head`` expects.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        # The interpreter flushes again when it exits, and would print a second error.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
        raise OutputError(f"The output cannot be written: {error.strerror}.") from None


def say(line: str = "", *, err: bool = False) -> None:
    """Print ``line`` as one line, without control characters."""
    with writing():
        click.echo(printable(line), err=err)


def say_lines(text: str) -> None:
    """Print a text of several lines. Its only control characters are line ends and tabs."""
    with writing():
        click.echo(printable(text, LINES))


def say_json(value: Any, indent: int | None = 2) -> None:
    """Print ``value`` as JSON, on one line without an ``indent``."""
    with writing():
        click.echo(as_json(value, indent=indent))


def confirm(question: str) -> None:
    """Ask a question, and end the command unless the answer is yes."""
    if sys.stdin is None:
        raise click.ClickException(
            "Standard input is closed, so the command cannot ask. Add --yes."
        )
    click.confirm(question, abort=True)


def say_table(rows: Sequence[Sequence[str]], indent: int = 0, headings: Sequence[str] = ()) -> None:
    """Print rows of cells in aligned columns below ``headings``, ``indent`` columns from the left.

    Prints nothing without a row.
    """
    shown = [[printable(cell) for cell in row] for row in [headings, *rows] if row]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    for row in shown:
        say(f"{'':{indent}}{'  '.join(map(str.ljust, row, widths))}".rstrip())


def progress(items: Iterable[T], count: int, label: str) -> Iterator[T]:
    """Yield the ``count`` items, with a progress bar if standard error is a terminal.

    ``say_beside_progress`` prints a line during that.
    """
    if not (count and sys.stderr.isatty()):
        yield from items
        return
    bar = click.progressbar(
        items,
        length=count,
        label=label,
        show_pos=True,
        width=_BAR_WIDTH,
        file=cast("TextIO", _BarStream()),
    )
    with bar:
        yield from bar


def say_beside_progress(line: str) -> None:
    """Print the result of an item in the place of the progress bar, which moves down.

    If it cannot be printed, the command stops, and standard error has the line.
    """
    if sys.stderr.isatty():
        click.echo(_CLEAR, nl=False, err=True)
    try:
        say(line)
    except (BrokenPipeError, OutputError):
        say(f"Stopped after this event: {line}", err=True)
        raise


def say_on_terminal(line: str) -> None:
    """Print what takes time, on standard error, if that is a terminal."""
    if sys.stderr.isatty():
        say(line, err=True)


class _BarStream:
    """Standard error for a progress bar. The cursor returns to the beginning of the line.

    So the next log line of a callback overwrites the bar.
    """

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> None:
        sys.stderr.write(f"{text}\r")

    def flush(self) -> None:
        sys.stderr.flush()
