"""FILE arguments of commands: a path, or ``-`` for standard input and output."""

from __future__ import annotations

import shutil
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TextIO

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The FILE that is standard output or standard input.
STANDARD_STREAM = "-"


@contextmanager
def output_path(file: str, redirect: str) -> Iterator[Path]:
    """Give the path to write to the block. Copy a temporary file to standard output afterwards.

    ``redirect`` is the command with its output in a file, for a message.
    """
    if file != STANDARD_STREAM:
        yield Path(file)
        return
    stream = _binary(sys.stdout, redirect)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "standard-output")
        yield path
        with path.open("rb") as written:
            shutil.copyfileobj(written, stream)
        # A disk that is full can refuse the last bytes. The exit code has to say so.
        stream.flush()


@contextmanager
def input_path(file: str, redirect: str) -> Iterator[Path]:
    """Give the path to read to the block: a temporary copy of standard input for ``-``.

    ``redirect`` is the command with its input from a file, for a message.
    """
    if file != STANDARD_STREAM:
        yield Path(file)
        return
    stream = _binary(sys.stdin, redirect)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "standard-input")
        with path.open("wb") as copy:
            shutil.copyfileobj(stream, copy)
        yield path


def _binary(stream: TextIO, redirect: str) -> BinaryIO:
    """Return the bytes below a standard stream. Raises ``ClickException`` for a terminal."""
    if stream.isatty():
        raise click.ClickException(f"`-` cannot be a terminal. Redirect it: `{redirect}`.")
    return stream.buffer
