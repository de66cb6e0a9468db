"""``flask events export`` and ``import``: whole events as lines of JSON."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, BinaryIO

import click
from flask.cli import with_appcontext

from app.cli.events.filters import MAX_LIMIT, filter_options, require_known
from app.cli.hints import flask_command
from app.cli.inbox_errors import explained
from app.cli.operator import operator
from app.cli.output import plural, say, say_json
from app.cli.streams import input_path
from app.inbox.filters import EventFilter
from app.inbox.records import read_record
from app.inbox.transfer import ROWS, Added
from app.services import services
from app.text import in_one_line, printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from app.inbox.records import Record, Row
    from app.services import Services


@click.command("export")
@click.argument("event_ids", metavar="[ID]...", nargs=-1)
@filter_options
@click.option("--limit", type=click.IntRange(min=1, max=MAX_LIMIT), help="The latest N events.")
@with_appcontext
def export(event_ids: tuple[str, ...], wanted: EventFilter, limit: int | None) -> None:
    """Print whole events, each as one line of JSON, the latest first.

    A line has the body, all attempts with their tracebacks, and the retries. Without IDs and
    options, all events are printed. The service can go on beside it.
    """
    if event_ids and (wanted != EventFilter() or limit):
        raise click.UsageError("Give either IDs or options that select events, not both.")
    count = 0
    with explained():
        require_known(services().inbox, wanted)
        pages = _by_id(services(), event_ids) if event_ids else _pages(services(), wanted, limit)
        for page in pages:
            for record in page:
                say_json(record, indent=None)
            count += len(page)
    say(f"{plural(count, 'event')} exported.", err=True)


def _by_id(services: Services, event_ids: tuple[str, ...]) -> Iterator[list[Row]]:
    found = services.inbox.transfer.read(event_ids)
    missing = set(event_ids) - {each["id"] for each in found}
    if missing:
        raise click.ClickException(f"The inbox has no event {printable(', '.join(missing))}.")
    yield found


def _pages(services: Services, wanted: EventFilter, limit: int | None) -> Iterator[list[Row]]:
    """Yield the records of the matching events, some at a time."""
    left, before = limit or MAX_LIMIT, None
    while left:
        page = services.inbox.administration.page(wanted, limit=min(left, ROWS), before=before)
        yield services.inbox.transfer.read([each.id for each in page.events])
        left -= len(page.events)
        before = page.older
        if before is None:
            return


@click.command("import")
@click.argument("file", type=click.Path(allow_dash=True))
@click.option(
    "--runnable", is_flag=True, help="Let pending and running events run here, from now on."
)
@with_appcontext
def import_(file: str, *, runnable: bool) -> None:
    """Add the events of a FILE that `export` wrote. `-` reads standard input.

    All lines are checked first. Known events stay unchanged, so it can be repeated. Nothing runs by
    an import alone: events that were pending or running become dead, because they may still run
    where they were exported. With --runnable they are due here.
    """
    redirect = f"{flask_command('events', 'import', '-')} < FILE"
    inbox, total = services().inbox, Added()
    with input_path(file, redirect) as path, explained():
        for _ in _records(path):
            pass
        entry = inbox.audit.record(operator(), "import", "--runnable" if runnable else None)
        try:
            for records in _batches(path):
                added = inbox.transfer.add(records, runnable=runnable)
                total = Added(*map(sum, zip(total, added, strict=True)))
        finally:
            inbox.audit.complete(entry, total.added)
    say(f"{plural(total.added, 'event')} added, {total.known} known.")
    if total.halted:
        say(
            f"{plural(total.halted, 'event')} could still run at the export,"
            f" and {'is' if total.halted == 1 else 'are'} dead here. Check before you retry."
        )


def _batches(path: Path) -> Iterator[list[Record]]:
    records = _records(path)
    while batch := list(islice(records, ROWS)):
        yield batch


def _records(path: Path) -> Iterator[Record]:
    """Yield the events of a file. Raises ``ClickException`` with the number of a wrong line."""
    try:
        with path.open("rb") as file:
            yield from _parsed(file)
    except OSError as error:
        raise click.ClickException(f"The file cannot be read ({in_one_line(error)}).") from None


def _parsed(file: BinaryIO) -> Iterator[Record]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            yield read_record(line)
        except ValueError as error:
            raise click.ClickException(f"Line {number} {error}. Nothing was imported.") from None
