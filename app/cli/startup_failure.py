"""The application of ``flask`` if the settings are wrong: only ``flask doctor`` works."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from flask import Flask
from flask.cli import AppGroup, FlaskGroup

from app.cli.doctor import doctor

if TYPE_CHECKING:
    from app.errors import StartError


def looks_for_commands() -> bool:
    """Return true if ``flask`` loads the application to find one of our commands.

    False under a server, ``flask run`` and ``flask shell``, which use the application itself.
    """
    context = click.get_current_context(silent=True)
    return context is not None and isinstance(context.command, FlaskGroup)


def only_doctor(error: StartError) -> Flask:
    """Return an application without routes, whose only command is ``flask doctor``.

    Every other command raises ``error``.
    """
    app = Flask(__name__, static_folder=None)
    app.cli = _OnlyDoctor(error)
    return app


class _OnlyDoctor(AppGroup):
    """The command ``doctor``, and the error for all others."""

    def __init__(self, error: StartError) -> None:
        super().__init__()
        self._error = error

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - named by click
        """Return ``flask doctor``, or raise the error."""
        if cmd_name == doctor.name:
            return doctor
        raise self._error

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - named by click
        """Raise the error: a list with one command would hide that the others exist."""
        raise self._error
