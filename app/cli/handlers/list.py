"""``flask handlers list``: the handler modules that are plugged in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click
from flask.cli import with_appcontext

from app.cli.output import json_option, say, say_json, say_table
from app.processing.registry import HandlerModule
from app.services import services


@click.command("list")
@with_appcontext
@json_option
def list_modules(*, as_json: bool) -> None:
    """List each handled event type with its file, its policies and its summary.

    Policies have an effect in queue mode only.
    """
    registry = services().registry
    modules = [*registry.modules, registry.fallback]
    if as_json:
        say_json([_row(module) for module in modules])
        return
    if not registry.modules:
        say("No event type has a handler module: the fallback handles all events.")
    # Without a policy, the column would be empty.
    names = ("type", "file", *(["policies"] if registry.policies else []), "summary")
    say_table([_cells(module, names) for module in modules], headings=names)


def _row(module: HandlerModule) -> dict[str, Any]:
    return {
        "type": module.event_type,
        "file": module.file,
        "policies": module.policy.constants(),
        "summary": module.summary,
    }


def _cells(module: HandlerModule, names: Sequence[str]) -> list[str]:
    row = _row(module) | {"policies": str(module.policy)}
    return [row[name] for name in names]
