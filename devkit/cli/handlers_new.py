"""``flask handlers new``: write a handler module and its test."""

from __future__ import annotations

import importlib
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click
import stripe
from flask.cli import with_appcontext

from app.cli.hints import program
from app.cli.output import say, say_lines
from app.services import services
from app.stripe_api.catalog import EVENT_TYPE_SHAPE, Kind, event_types, kind_of, module_name
from devkit import samples, scaffold, snapshot_scaffold

if TYPE_CHECKING:
    from app.processing.registry import Registry


@dataclass(frozen=True, slots=True)
class Place:
    """The paths of a handler module and its test."""

    module: Path
    test: Path


@click.command("new")
@with_appcontext
@click.argument("event_type", metavar="TYPE")
@click.option("--untyped", is_flag=True, help="For a TYPE that is newer than the installed SDK.")
def new(event_type: str, *, untyped: bool) -> None:
    """Write a handler module for events of TYPE, and a test that passes.

    Existing files are never overwritten.
    """
    _check_type(event_type, untyped=untyped)
    place = place_of(services().settings.handlers_package, event_type)
    refuse_second(services().registry, event_type, place)
    write_files(event_type, place)
    _say_what_is_next(event_type, place)


def _check_type(event_type: str, *, untyped: bool) -> None:
    """Refuse a type that the SDK does not know, unless ``untyped``."""
    known = event_type in event_types()
    if untyped and known:
        raise click.UsageError(
            f"stripe {stripe.VERSION} knows {event_type!r}. Omit --untyped for a typed module"
        )
    if known or (untyped and EVENT_TYPE_SHAPE.fullmatch(event_type)):
        return
    near = samples.nearest(event_type)
    hint = f"; nearest: {', '.join(near)}" if near else ""
    advice = (
        "A type is like v2.thing.happened, or thing.happened for a snapshot event"
        if untyped
        else "If the type is newer than the SDK, add --untyped"
    )
    raise click.BadParameter(
        f"{event_type!r} is no event type of stripe {stripe.VERSION}{hint}. {advice}",
        param_hint="TYPE",
    )


def place_of(package_name: str, event_type: str) -> Place:
    """Return the paths. The package ``a.b`` has its tests in ``tests/a/b`` beside ``a``."""
    package = Path(importlib.import_module(package_name).__path__[0])
    names = package_name.split(".")
    tests = package.parents[len(names) - 1] / "tests" / Path(*names)
    name = f"{module_name(event_type)}.py"
    return Place(package / name, tests / f"test_{name}")


def refuse_second(registry: Registry, event_type: str, place: Place) -> None:
    """Refuse to overwrite a file, and to write a second module for one type."""
    files = [module.file for module in registry.modules if module.event_type == event_type]
    existing = [*files, *(shown(file) for file in (place.module, place.test) if file.exists())]
    if existing:
        raise click.ClickException(f"{existing[0]} already exists. Nothing was written")


def write_files(event_type: str, place: Place) -> None:
    """Write the module and its test, and print their paths."""
    templates = scaffold if kind_of(event_type) is Kind.THIN else snapshot_scaffold
    _write(place.module, templates.module_text(event_type))
    _write(place.test, templates.test_text(event_type))


def _write(file: Path, text: str) -> None:
    """Write a new file."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        raise click.ClickException(
            f"{shown(file)} could not be written: {error.strerror}"
        ) from None
    say(f"Wrote {shown(file)}")


def shown(file: Path) -> str:
    """Return the path, relative to the current folder if possible."""
    return str(file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file)


def _say_what_is_next(event_type: str, place: Place) -> None:
    say_lines(
        f"""
Next:
  {program("python")} -m pytest {shown(place.test)}
  make dev    # in another terminal: the service, restarted after each change of a handler
  {program("flask")} events send {shlex.quote(event_type)}"""
    )
