"""``flask events``: what can be done with events, a module for each command or pair of them."""

from __future__ import annotations

from flask.cli import AppGroup

from app.cli.events.look import list_events, show
from app.cli.events.pause import pause, resume
from app.cli.events.reconcile import reconcile
from app.cli.events.retry import retry
from app.cli.events.send import send

events = AppGroup("events", help="See events, have them run again, send signed samples.")
for command in (list_events, show, retry, reconcile, pause, resume, send):
    events.add_command(command)
