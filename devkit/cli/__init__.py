"""Commands for authors of handler modules, in the groups of ``app.cli``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from devkit.cli.events_fixture import export
from devkit.cli.events_send import send
from devkit.cli.handlers_new import new
from devkit.cli.handlers_suggest import suggest
from devkit.cli.handlers_types import types

if TYPE_CHECKING:
    from flask.cli import AppGroup


def register(events: AppGroup, handlers: AppGroup) -> None:
    """Add the commands to ``flask events`` and ``flask handlers``."""
    events.add_command(export)  # with one option more
    events.add_command(send)
    handlers.add_command(new)
    handlers.add_command(suggest)
    handlers.add_command(types)
