"""``flask events``: what can be done with events, a module for each command or pair of them."""

from __future__ import annotations

from flask.cli import AppGroup

from app.cli.events.list_show import list_events, show
from app.cli.events.pause import pause, resume
from app.cli.events.reconcile import reconcile
from app.cli.events.retry import retry

events = AppGroup("events", help="See events, and have them run again.")
for command in (list_events, show, retry, reconcile, pause, resume):
    events.add_command(command)
