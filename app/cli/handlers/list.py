"""``flask handlers list``: what is plugged in."""

from __future__ import annotations

import click
from flask.cli import with_appcontext

from app.cli.output import say, say_json
from app.services import services


@click.command("list")
@with_appcontext
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for other programs.")
def list_modules(*, as_json: bool) -> None:
    """Show every handled event type, its file and what it does."""
    registry = services().registry
    modules = [*registry.modules, registry.fallback]
    if as_json:
        rows = [{"type": m.event_type, "file": m.file, "summary": m.summary} for m in modules]
        say_json(rows)
        return
    if not registry.modules:
        say("No event type has a handler module; every event goes to the fallback.")
    widths = [max(len(m.event_type) for m in modules), max(len(m.file) for m in modules)]
    for module in modules:
        line = f"{module.event_type:{widths[0]}}  {module.file:{widths[1]}}  {module.summary}"
        say(line.rstrip())
