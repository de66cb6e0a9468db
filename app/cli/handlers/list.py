"""``flask handlers list``: the handler modules that are plugged in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click
from flask.cli import with_appcontext

from app.cli.output import json_option, say, say_json, say_table
from app.processing.around import AROUND
from app.processing.policies import NO_POLICY
from app.processing.registry import Registry
from app.services import services


@click.command("list")
@with_appcontext
@json_option
def list_modules(*, as_json: bool) -> None:
    """List each handled event type with its file, policies and summary, and the hook.

    Policies have an effect in queue mode only, except SHADOW.
    """
    registry = services().registry
    rows = list(_rows(registry))
    if as_json:
        say_json([row | {"policies": row["policies"].constants()} for row in rows])
        return
    if not registry.modules:
        say("No event type has a handler module: the fallback handles all events.")
    # Without a policy, the column would be empty.
    names = ("type", "file", *(["policies"] if registry.policies else []), "summary")
    say_table([[str(row[name]) for name in names] for row in rows], headings=names)


def _rows(registry: Registry) -> Iterator[dict[str, Any]]:
    """Yield the columns of each module, the types first, then the fallbacks and the hook."""
    for each in (*registry.modules, registry.fallback, registry.snapshot_fallback):
        if each is not None:
            yield _row(each.event_type, each.file, each.policy, each.summary)
    if registry.around is not None:
        yield _row(AROUND, registry.around.file, NO_POLICY, registry.around.summary)


def _row(*cells: object) -> dict[str, Any]:
    return dict(zip(("type", "file", "policies", "summary"), cells, strict=True))
