"""``flask handlers list``: the handler modules that are plugged in."""

from __future__ import annotations

import click
from flask.cli import with_appcontext

from app.cli.output import json_option, say, say_json, say_table
from app.processing.around import AROUND
from app.services import services

HEADINGS = ("type", "file", "summary")


@click.command("list")
@with_appcontext
@json_option
def list_modules(*, as_json: bool) -> None:
    """List each handled event type with its file and its summary, and the hook."""
    registry = services().registry
    fallbacks = [registry.fallback, registry.snapshot_fallback]
    modules = [*registry.modules, *(each for each in fallbacks if each)]
    rows = [(each.event_type, each.file, each.summary) for each in modules]
    if registry.around is not None:
        rows.append((AROUND, registry.around.file, registry.around.summary))
    if as_json:
        say_json([dict(zip(HEADINGS, row, strict=True)) for row in rows])
        return
    if not registry.modules:
        say("No event type has a handler module: the fallback handles all events.")
    say_table(rows, headings=HEADINGS)
