"""``flask handlers types``: the event types that the installed SDK knows."""

from __future__ import annotations

import re

import click
import stripe

from app.cli.output import say_table
from devkit import samples

HEADINGS = ("type", "object", "class")


@click.command("types")
@click.argument("pattern", default="")
def types(pattern: str) -> None:
    """List the event types that contain PATTERN, where * matches any text.

    Each type is listed with the kind of object in its notifications: an object, a singleton (which
    has no id), or none. The last column is the SDK's class that fetch_related_object() returns.
    """
    words = re.escape(pattern).replace(r"\*", ".*")
    found = [each for each in samples.event_types() if re.search(words, each, re.IGNORECASE)]
    if not found:
        near = samples.nearest(pattern)
        hint = f"; nearest: {', '.join(near)}" if near else ""
        raise click.ClickException(
            f"No event type of stripe {stripe.VERSION} contains {pattern!r}{hint}"
        )
    say_table([_cells(each) for each in found], headings=HEADINGS)


def _cells(event_type: str) -> tuple[str, str, str]:
    related = samples.related_class(event_type)
    name = samples.public_name(related) if related else ""
    return event_type, samples.related_object_kind(event_type), name
