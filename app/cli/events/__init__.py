"""``flask events``: commands for the events in the inbox."""

from __future__ import annotations

from flask.cli import AppGroup

from app.cli.events.audit import audit
from app.cli.events.erase import erase
from app.cli.events.event_list import list_events
from app.cli.events.give_up import give_up
from app.cli.events.groups import groups
from app.cli.events.pause import pause, resume
from app.cli.events.prune import prune
from app.cli.events.reconcile import reconcile
from app.cli.events.retry import retry
from app.cli.events.show import show
from app.cli.events.stats import stats
from app.cli.events.transfer import export, import_

events = AppGroup("events", help="Show, retry, give up, backfill, export and remove events.")
COMMANDS = (
    *(list_events, show, stats, groups, retry, give_up, reconcile, pause, resume, audit),
    *(export, import_, prune, erase),
)
for command in COMMANDS:
    events.add_command(command)
