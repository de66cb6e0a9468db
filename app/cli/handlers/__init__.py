"""``flask handlers``: what is plugged in, what can be, and a new one."""

from __future__ import annotations

from flask.cli import AppGroup

from app.cli.handlers.list import list_modules
from app.cli.handlers.new import new
from app.cli.handlers.types import types

handlers = AppGroup("handlers", help="Write a handler module, and show those that there are.")
handlers.add_command(list_modules)
handlers.add_command(new)
handlers.add_command(types)
