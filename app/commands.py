"""The commands of ``flask``, loaded when one is called."""

from __future__ import annotations

import click
from flask.cli import AppGroup


class Commands(AppGroup):
    """The commands of ``flask``. A server does not load them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        self._load()
        return super().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of this name, or None."""
        self._load()
        return super().get_command(ctx, cmd_name)

    def _load(self) -> None:
        from app import cli  # noqa: PLC0415 - see the class

        cli.register(self)
