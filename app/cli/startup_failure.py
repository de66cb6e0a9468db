"""What ``flask`` gets of a service that cannot start: the doctor, who says why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from flask import Flask
from flask.cli import AppGroup, FlaskGroup

from app.cli.doctor import doctor

if TYPE_CHECKING:
    from app.errors import StartError


def looks_for_commands() -> bool:
    """Whether it is ``flask`` that loads the application now, to find a command of ours.

    A server does not, and neither do ``flask run`` and ``flask shell``: they load it to use it.
    """
    context = click.get_current_context(silent=True)
    return context is not None and isinstance(context.command, FlaskGroup)


def only_doctor(error: StartError) -> Flask:
    """Return an application with no route and no command but the doctor's.

    Whatever else is asked for raises ``error``, as it would without this.
    """
    app = Flask(__name__, static_folder=None)
    app.cli = _OnlyDoctor(error)
    return app


class _OnlyDoctor(AppGroup):
    """The commands of such an application."""

    def __init__(self, error: StartError) -> None:
        super().__init__()
        self._error = error

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - named by click
        """Return the doctor's command, or raise the error."""
        if cmd_name == doctor.name:
            return doctor
        raise self._error

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - named by click
        """Raise the error: a list without the other commands would say nothing of them."""
        raise self._error
