"""``flask handlers list``: the handler modules that are plugged in."""

from __future__ import annotations

import click
from flask.cli import with_appcontext

from app.cli.output import json_option, say, say_json, say_table
from app.services import services


@click.command("list")
@with_appcontext
@json_option
def list_modules(*, as_json: bool) -> None:
    """List each handled event type with its file and its summary."""
    registry = services().registry
    fallbacks = [registry.fallback, registry.snapshot_fallback]
    modules = [*registry.modules, *(each for each in fallbacks if each)]
    if as_json:
        rows = [{"type": m.event_type, "file": m.file, "summary": m.summary} for m in modules]
        say_json(rows)
        return
    if not registry.modules:
        say("No event type has a handler module: the fallback handles all events.")
    say_table(
        [(module.event_type, module.file, module.summary) for module in modules],
        headings=("type", "file", "summary"),
    )
