"""``flask handlers``: commands for the handler modules."""

from __future__ import annotations

from flask.cli import AppGroup

from app.cli.handlers.list import list_modules

handlers = AppGroup("handlers", help="Show the handler modules.")
handlers.add_command(list_modules)
