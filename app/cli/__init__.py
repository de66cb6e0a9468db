"""The commands that ``flask`` gets from this service: one module per group."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.cli import destination, doctor, events, handlers, worker

if TYPE_CHECKING:
    from flask import Flask


def register(app: Flask) -> None:
    """Add all groups to ``flask`` for ``app``."""
    app.cli.add_command(destination.destination)
    app.cli.add_command(doctor.doctor)
    app.cli.add_command(events.events)
    app.cli.add_command(handlers.handlers)
    app.cli.add_command(worker.worker)
