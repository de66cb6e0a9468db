"""``flask events export ID --fixture``: an anonymised test fixture of a real event."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from flask.cli import with_appcontext

from app.cli.events import transfer
from app.cli.inbox_errors import explained
from app.cli.output import say, say_lines
from app.cli.streams import STANDARD_STREAM
from app.services import services
from app.text import in_one_line, printable
from devkit.anonymise import anonymised


@with_appcontext
def _export(*, fixture: str | None, event_ids: tuple[str, ...], **options: Any) -> None:
    if fixture is None:
        click.get_current_context().invoke(transfer.export, event_ids=event_ids, **options)
    elif len(event_ids) == 1:
        _write(event_ids[0], fixture)
    else:
        raise click.UsageError("--fixture takes one ID.")


#: ``export`` with the option ``--fixture``. It replaces the command where the devkit is installed.
export = click.Command(
    "export",
    callback=_export,
    params=[
        *transfer.export.params,
        click.Option(
            ["--fixture"],
            is_flag=False,
            flag_value=STANDARD_STREAM,
            metavar="[FILE]",
            help="Write the body of one event for a test. The data of customers is replaced.",
        ),
    ],
    help=transfer.export.help,
)


def _write(event_id: str, file: str) -> None:
    """Write the fixture of an event into a new file, or to standard output."""
    with explained():
        event = services().inbox.administration.find(event_id)
    if event is None:
        raise click.ClickException(f"The inbox has no event {printable(event_id)}.")
    if event.erased_at is not None:
        raise click.ClickException(f"The body of {event_id} was erased.")
    text = json.dumps(anonymised(json.loads(event.body)), indent=2)
    if file == STANDARD_STREAM:
        say_lines(text)
        return
    try:
        with Path(file).open("x", encoding="utf-8") as new:
            new.write(f"{text}\n")
    except OSError as error:
        raise click.ClickException(f"{file} cannot be written ({in_one_line(error)}).") from None
    say(f"Wrote {file}.")
