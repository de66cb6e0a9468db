"""``flask db``: the revision of the inbox's tables, their migration, backup and restore."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import click
from flask.cli import AppGroup, with_appcontext

from app.cli.hints import flask_command, hint
from app.cli.inbox_errors import explained
from app.cli.operator import operator
from app.cli.output import json_option, plural, say, say_json, say_table, sentence
from app.cli.streams import STANDARD_STREAM, input_path, output_path
from app.errors import MigrationPending
from app.inbox.backup import BackupError
from app.services import services
from app.text import in_one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.inbox.migrate import Revisions

db = AppGroup("db", help="Show and migrate the inbox's tables, back them up and restore them.")


@db.command("current")
@json_option
@with_appcontext
def current(*, as_json: bool) -> None:
    """Show the revision of the tables and the newest one of this version."""
    with explained():
        revisions = services().inbox.revisions()
    if as_json:
        say_json(revisions._asdict())
        return
    say_table(
        [
            ["inbox", services().inbox.address],
            ["revision", revisions.current or "none"],
            ["newest", revisions.newest],
            ["state", "migration pending" if revisions.is_pending else "ready"],
        ]
    )


@db.command("check")
@with_appcontext
@click.pass_context
def check(context: click.Context, /) -> None:
    """Exit with 1 if a migration is pending, and otherwise 0. Changes nothing."""
    with explained():
        revisions = services().inbox.revisions()
    if revisions.is_pending:
        pending = MigrationPending(revisions.current, revisions.newest)
        say(f"{sentence(pending.reason)}. Run {hint('db', 'upgrade')}.")
        context.exit(1)
    say(_ready(revisions))


@db.command("upgrade")
@with_appcontext
def upgrade() -> None:
    """Bring the tables to this version, whatever MIGRATE is, and build missing indexes.

    Any number of processes may run it at once. Replicas of the version before can go on beside it.
    """
    inbox = services().inbox
    found = inbox.examine()
    with explained(may_create=found is None or not found.known):
        before = inbox.upgrade()
    if before.is_pending:
        since = f"from revision {before.current} " if before.current else ""
        say(f"The tables were migrated {since}to revision {before.newest}.")
    else:
        say(_ready(before))
    with explained():
        if missing := inbox.indexes.missing():
            say(f"Building the indexes {', '.join(missing)}. Deliveries go on.")
            inbox.indexes.build(waits=True)
            say("The indexes are built.")


@db.command("backup")
@click.argument("file", type=click.Path(allow_dash=True))
@with_appcontext
def back_up(file: str) -> None:
    """Write all events into a new FILE. The service can go on beside it.

    The FILE is an SQLite database, also for an inbox on PostgreSQL. `-` writes it to standard
    output: it is built in the folder for temporary files first.
    """
    redirect = f"{flask_command('db', 'backup', '-')} > FILE"
    with explained(), _backup_errors(), output_path(file, redirect) as path:
        count = services().inbox.back_up(path)
    name = "standard output" if file == STANDARD_STREAM else file
    say(f"{plural(count, 'event')} written to {name}.", err=file == STANDARD_STREAM)


@db.command("restore")
@click.argument("file", type=click.Path(allow_dash=True))
@with_appcontext
def restore(file: str) -> None:
    """Write all events of a FILE that `backup` wrote into an empty inbox.

    Missing tables are created. It is all or nothing. `-` reads the FILE from standard input.
    """
    redirect = f"{flask_command('db', 'restore', '-')} < FILE"
    with explained(may_create=True), _backup_errors(), input_path(file, redirect) as path:
        count = services().inbox.restore(path)
        name = "standard input" if file == STANDARD_STREAM else file
        services().inbox.audit.record(operator(), "restore", name, affected=count)
    say(f"{plural(count, 'event')} restored from {name}.")


@contextmanager
def _backup_errors() -> Iterator[None]:
    try:
        yield
    except BackupError as error:
        raise click.ClickException(f"{sentence(str(error))}.") from None
    except OSError as error:
        raise click.ClickException(f"The backup cannot be copied ({in_one_line(error)}).") from None


def _ready(revisions: Revisions) -> str:
    """Return the sentence about tables that need no migration."""
    if revisions.is_newer:
        return (
            f"The tables are at revision {revisions.current} of a newer version."
            f" This version (revision {revisions.newest}) works with them."
        )
    return f"The tables are at revision {revisions.newest}, which this version needs."
