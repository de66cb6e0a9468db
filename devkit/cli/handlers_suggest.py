"""``flask handlers suggest``: the event types that an integration needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from flask.cli import with_appcontext

from app.cli.hints import program
from app.cli.output import json_option, plural, say, say_json, say_lines, say_table
from app.services import services
from app.stripe_api.catalog import Kind, kind_of
from devkit.cli.handlers_new import place_of, refuse_second, shown, write_files
from devkit.suggestions import PURPOSES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from app.processing.registry import Registry
    from devkit.suggestions import Suggestion


@click.command("suggest")
@click.argument("purpose", type=click.Choice(list(PURPOSES)))
@click.option("--write", is_flag=True, help="Write a module and a test for each missing type.")
@click.option(
    "--kind",
    type=click.Choice([str(each) for each in Kind]),
    default=str(Kind.THIN),
    show_default=True,
    help="The kind of the events whose modules --write writes, if a type has both.",
)
@json_option
@with_appcontext
def suggest(purpose: str, *, write: bool, kind: str, as_json: bool) -> None:
    """List the event types that an integration needs for PURPOSE, and their modules.

    Each type is listed with those of its thin and its snapshot events. A module of either kind
    counts. --write never overwrites a file. A type that has events of one kind only gets the module
    for it, whatever --kind says.
    """
    if write and as_json:
        raise click.UsageError("--write prints no JSON. Leave out one of --write and --json.")
    registry = services().registry
    files = {each: _file(registry, each) for each in PURPOSES[purpose]}
    missing = [each.type_of(Kind(kind)) for each, file in files.items() if file is None]
    if write:
        _write(registry, missing)
    elif as_json:
        say_json([_as_object(each, file) for each, file in files.items()])
    else:
        _say(files, missing, purpose if kind == Kind.THIN else f"{purpose} --kind {kind}")


def _file(registry: Registry, suggestion: Suggestion) -> str | None:
    """Return the file of the module for this type, of either kind. None if there is none."""
    types = {suggestion.thin, suggestion.snapshot}
    return next((each.file for each in registry.modules if each.event_type in types), None)


def _as_object(suggestion: Suggestion, file: str | None) -> dict[str, str | None]:
    return {
        "thin_type": suggestion.thin,
        "snapshot_type": suggestion.snapshot,
        "meaning": suggestion.meaning,
        "page": suggestion.page,
        "file": file,
    }


def _say(files: dict[Suggestion, str | None], missing: Sequence[str], arguments: str) -> None:
    """Print the table, Stripe's pages, and the command with these ``arguments`` that writes."""
    say_table(
        [
            (each.thin or "-", each.snapshot or "-", file or "-", each.meaning)
            for each, file in files.items()
        ],
        headings=("thin type", "snapshot type", "module", "meaning"),
    )
    say()
    for page in dict.fromkeys(each.page for each in files):
        say(page)
    if missing:
        command = f"{program('flask')} handlers suggest {arguments} --write"
        say()
        say(f"{plural(len(missing), 'type')} without a module. To write them: {command}")


def _write(registry: Registry, missing: Sequence[str]) -> None:
    if not missing:
        say("Each of these types has a module.")
        return
    places = {each: place_of(services().settings.handlers_package, each) for each in missing}
    for event_type, place in places.items():
        refuse_second(registry, event_type, place)
    for event_type, place in places.items():
        write_files(event_type, place)
    folder = shown(next(iter(places.values())).test.parent)
    snapshot = any(kind_of(each) is Kind.SNAPSHOT for each in missing)
    say_lines(
        f"""
Next:
  {program("python")} -m pytest {folder}
  {program("flask")} destination sync    # lets Stripe send the new types"""
    )
    if snapshot and not registry.types_of(Kind.SNAPSHOT):
        say_lines(
            f"""
Snapshot events come from a destination of their own. To make one:
  {program("flask")} destination create --payload snapshot"""
        )
