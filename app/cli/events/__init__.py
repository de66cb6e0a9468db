"""``flask events``: what can be done with events, a module for each command or pair of them."""

from __future__ import annotations

from flask.cli import AppGroup

from app.cli.events.send import send

events = AppGroup("events", help="Send signed sample events to a running service.")
events.add_command(send)
