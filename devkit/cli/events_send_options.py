"""The options of ``flask events send``: how they are read, and which exclude each other."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from app.stripe_api.catalog import Kind, kind_of

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Options that concern a delivery, and so exclude --lost.
OF_DELIVERIES = ("duplicate", "forge", "stale")


def read_url(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """Refuse a value that is no URL before any delivery."""
    if value and not value.startswith(("http://", "https://")):
        raise click.BadParameter(f"{value!r} is no URL like http://127.0.0.1:4242/webhook")
    return value


def read_fields(
    _context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]
) -> dict[str, Any]:
    """Return the fields of ``NAME=VALUE`` pairs. A value that is no JSON is text."""
    fields = {}
    for pair in values:
        name, equals, value = pair.partition("=")
        if not (name and equals):
            raise click.BadParameter(f"{pair!r} is not like email=jenny@example.com")
        try:
            fields[name] = json.loads(value)
        except ValueError:
            fields[name] = value
    return fields


def check_options(event_type: str | None, url: str | None, options: Mapping[str, Any]) -> None:
    """Raise ``UsageError`` for arguments that exclude each other."""
    if (event_type is None) == (options["redeliver"] is None):
        raise click.UsageError("Give either a TYPE, or an event of the inbox with --redeliver.")
    if options["redeliver"] and (options["times"] > 1 or options["context"]):
        raise click.UsageError("--redeliver takes neither --times nor --context.")
    if options["snapshot_event"]:
        is_thin = event_type is not None and kind_of(event_type) is Kind.THIN
        if not is_thin or options["times"] > 1 or options["lost"]:
            raise click.UsageError(
                "--snapshot-event takes a thin TYPE, and neither --times nor --lost."
            )
    given = [f"--{name}" for name in OF_DELIVERIES if options[name]] + (["--url"] if url else [])
    if options["lost"] and (given or options["redeliver"]):
        raise click.UsageError(f"--lost delivers nothing: omit {(given or ['--redeliver'])[0]}.")
