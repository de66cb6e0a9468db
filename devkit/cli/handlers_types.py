"""``flask handlers types``: the event types that the installed SDK knows."""

from __future__ import annotations

import re

import click
import stripe

from app.cli.output import say_table
from app.stripe_api.catalog import Kind, event_types, kind_of
from devkit import samples

HEADINGS = ("type", "kind", "object", "class")


@click.command("types")
@click.argument("pattern", default="")
def types(pattern: str) -> None:
    """List the event types that contain PATTERN, where * matches any text.

    Each type is thin or a snapshot. A snapshot event has a copy of its object. A thin one names an
    object, a singleton (which has no id), or none: fetch_related_object() returns it. The last
    column is the SDK's class of the object.
    """
    words = re.escape(pattern).replace(r"\*", ".*")
    known = sorted(event_types())
    found = [each for each in known if re.search(words, each, re.IGNORECASE)]
    if not found:
        near = samples.nearest(pattern)
        hint = f"; nearest: {', '.join(near)}" if near else ""
        raise click.ClickException(
            f"No event type of stripe {stripe.VERSION} contains {pattern!r}{hint}"
        )
    say_table([_cells(each) for each in found], headings=HEADINGS)


def _cells(event_type: str) -> tuple[str, str, str, str]:
    kind = kind_of(event_type)
    if kind is Kind.SNAPSHOT:
        return event_type, kind, "copy", samples.public_name(samples.snapshot_class(event_type))
    related = samples.related_class(event_type)
    name = samples.public_name(related) if related else ""
    return event_type, kind, samples.related_object_kind(event_type), name
