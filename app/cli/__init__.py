"""The commands of ``flask``: one module or package for each group."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING

from app.cli import alerts, db, destination, doctor, events, handlers, migrate, worker

if TYPE_CHECKING:
    from flask.cli import AppGroup

#: The package with the commands for authors of handlers. The image does not contain it.
DEVKIT = "devkit"


def register(commands: AppGroup) -> None:
    """Add all groups to ``commands``, with the commands of the devkit if it is installed."""
    commands.add_command(alerts.alerts)
    commands.add_command(db.db)
    commands.add_command(destination.destination)
    commands.add_command(doctor.doctor)
    commands.add_command(events.events)
    commands.add_command(handlers.handlers)
    commands.add_command(migrate.migrate)
    commands.add_command(worker.worker)
    if importlib.util.find_spec(DEVKIT) is not None:
        importlib.import_module(f"{DEVKIT}.cli").register(events.events, handlers.handlers)
