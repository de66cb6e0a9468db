"""``flask handlers list``: the handler modules that are plugged in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from flask.cli import with_appcontext

from app.cli.output import json_option, say, say_json, say_table
from app.processing.around import AROUND
from app.processing.policies import NO_POLICY
from app.processing.registry import HandlerModule, Registry
from app.services import services

#: What a module is beside the one for the events of the other kind, as the table says it.
ROLES = {"pair": "with", "shadow": "shadow of", "shadowed": "with shadow"}


@click.command("list")
@with_appcontext
@json_option
def list_modules(*, as_json: bool) -> None:
    """List each handled event type with its file, policies and summary, and the hook.

    If a type has a snapshot and a thin module, each names the other one. Policies have an effect in
    queue mode only, except SHADOW.
    """
    registry = services().registry
    rows = list(_rows(registry))
    if as_json:
        say_json([row | {"policies": row["policies"].constants()} for row in rows])
        return
    if not registry.modules:
        say("No event type has a handler module: the fallback handles all events.")
    # A column without a value is left out.
    optional = [name for name in ("pair", "policies") if any(str(row[name] or "") for row in rows)]
    names = ("type", "file", *optional, "summary")
    cells = [row | {"pair": _in_words(row["pair"])} for row in rows]
    say_table([[str(row[name]) for name in names] for row in cells], headings=names)


def _rows(registry: Registry) -> Iterator[dict[str, Any]]:
    """Yield the columns of each module, the types first, then the fallbacks and the hook."""
    for each in (*registry.modules, registry.fallback, registry.snapshot_fallback):
        if each is not None:
            pair = _pair(each, registry.counterpart(each.event_type))
            yield _row(each.event_type, each.file, pair, each.policy, each.summary)
    if registry.around is not None:
        yield _row(AROUND, registry.around.file, None, NO_POLICY, registry.around.summary)


def _pair(module: HandlerModule, other: HandlerModule | None) -> dict[str, str] | None:
    """Return what the module is to the ``other`` one of its type, None if there is no other."""
    if other is None:
        return None
    role = "shadowed" if other.policy.shadow else "pair"
    role = "shadow" if module.policy.shadow else role
    return {"role": role, "type": other.event_type, "file": other.file}


def _in_words(pair: dict[str, str] | None) -> str:
    return f"{ROLES[pair['role']]} {Path(pair['file']).name}" if pair else ""


def _row(*cells: object) -> dict[str, Any]:
    return dict(zip(("type", "file", "pair", "policies", "summary"), cells, strict=True))
