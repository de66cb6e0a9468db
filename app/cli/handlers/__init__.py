"""``flask handlers``: the handler modules that there are."""

from __future__ import annotations

from flask.cli import AppGroup

from app.cli.handlers.list import list_modules

handlers = AppGroup("handlers", help="Show the handler modules, and write new ones.")
handlers.add_command(list_modules)
