"""Commands in messages, as they work in the shell of the caller."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

import click


def hint(*arguments: str) -> str:
    """Return a command of ``flask`` for a sentence, in backquotes."""
    return f"`{flask_command(*arguments)}`"


def flask_command(*arguments: str) -> str:
    """Return a command of ``flask`` that works in the current folder, with its global options.

    It is ``flask`` alone if the search path leads to this environment.
    """
    path = program("flask")
    found = shutil.which("flask")
    is_ours = found is not None and Path(path).exists() and Path(found).samefile(path)
    return shlex.join(["flask" if is_ours else path, *_global_options(), *arguments])


def program(name: str) -> str:
    """Return the path of a program of this environment, relative if it is below this folder."""
    path = Path(sys.executable).with_name(name)
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _global_options() -> list[str]:
    """Return the options before the name of the running command: ``--app`` and others."""
    context = click.get_current_context(silent=True)
    command = context.find_root().invoked_subcommand if context else None
    given = sys.argv[1:]
    return given[: given.index(command)] if command in given else []
