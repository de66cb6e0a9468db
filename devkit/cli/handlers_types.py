"""``flask handlers types``: which event types the installed SDK knows."""

from __future__ import annotations

import re

import click
import stripe

from app.cli.output import say
from devkit import samples


@click.command("types")
@click.argument("pattern", default="")
def types(pattern: str) -> None:
    """Show the event types that contain PATTERN, of which * stands for anything.

    Beside each stands what its notifications name: an object, a singleton (which has no id), or
    none; and the SDK's class that fetch_related_object() returns.
    """
    words = re.escape(pattern).replace(r"\*", ".*")
    found = [each for each in samples.event_types() if re.search(words, each, re.IGNORECASE)]
    if not found:
        near = samples.nearest(pattern)
        hint = f"; nearest: {', '.join(near)}" if near else ""
        raise click.ClickException(
            f"No event type of stripe {stripe.VERSION} has {pattern!r}{hint}"
        )
    width = max(map(len, found))
    for event_type in found:
        related = samples.related_class(event_type)
        name = samples.public_name(related) if related else ""
        line = f"{event_type:{width}}  {samples.related_object_kind(event_type):9}  {name}"
        say(line.rstrip())
