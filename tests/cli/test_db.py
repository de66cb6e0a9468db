"""``flask db``: the revision of the tables and their migration."""

from __future__ import annotations

import io
import json
import os
import pty
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import TextIO

import click
import pytest
from click.testing import Result

from app.cli import db
from app.inbox.migrate import migrations
from devkit import samples
from tests.conftest import Receiver
from tests.support import raw_sql

pytestmark = pytest.mark.no_tables

HEAD = migrations().head
NOTHING = f"There are no tables, and this version needs revision {HEAD}. Run `flask db upgrade`.\n"
READY = f"The tables are at revision {HEAD}, which this version needs.\n"

MakeReceiver = Callable[..., Receiver]


@pytest.fixture
def receiver(make_receiver: MakeReceiver, database_url: str) -> Receiver:
    """An application that does not migrate by itself."""
    return make_receiver(database_url=database_url, migrate="check")


def run(receiver: Receiver, *arguments: str) -> Result:
    """Run a ``flask`` command."""
    result = receiver.app.test_cli_runner().invoke(args=arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_upgrade_prepares_a_start(receiver: Receiver) -> None:
    """Under MIGRATE=check the service answers 503 until the command ran, and then takes events."""
    waiting = receiver.client.get("/readyz")
    assert waiting.status_code == 503
    assert waiting.json == {
        "status": "unavailable",
        "reason": "the inbox waits for a migration: run `flask db upgrade`",
    }
    assert run(receiver, "db", "check").exit_code == 1

    upgraded = run(receiver, "db", "upgrade")

    assert (upgraded.exit_code, upgraded.output) == (
        0,
        f"The tables were migrated to revision {HEAD}.\n",
    )
    assert receiver.client.get("/readyz").status_code == 200
    again = run(receiver, "db", "upgrade")
    assert (again.exit_code, again.output) == (0, READY)
    assert (run(receiver, "db", "check").exit_code, run(receiver, "db", "check").output) == (
        0,
        READY,
    )


def test_pending_migration_is_shown(make_receiver: MakeReceiver, postgresql_url: str) -> None:
    """``current`` and ``check`` show it, and change nothing."""
    receiver = make_receiver(database_url=postgresql_url, migrate="check")
    checked = run(receiver, "db", "check")
    assert (checked.exit_code, checked.output) == (1, NOTHING)
    shown = run(receiver, "db", "current")
    assert shown.output.splitlines() == [
        f"inbox     {receiver.services.inbox.address}",
        "revision  none",
        f"newest    {HEAD}",
        "state     migration pending",
    ]
    listed = run(receiver, "events", "list")
    assert (listed.exit_code, listed.output) == (1, f"Error: {NOTHING}")


def test_missing_schema_is_a_pending_migration(
    make_receiver: MakeReceiver, postgresql_url: str
) -> None:
    """Every command names ``upgrade``, which creates the schema of DATABASE_SCHEMA."""
    receiver = make_receiver(database_url=postgresql_url, migrate="check", database_schema="own")
    assert run(receiver, "db", "check").output == NOTHING
    assert run(receiver, "events", "list").output == f"Error: {NOTHING}"

    run(receiver, "db", "upgrade")

    assert run(receiver, "db", "check").output == READY


def test_upgrade_names_the_revision_before(receiver: Receiver) -> None:
    """An older inbox is migrated, and the command says from which revision."""
    run(receiver, "db", "upgrade")
    raw_sql.make_older(receiver.services.settings.database_url, "0004")

    upgraded = run(receiver, "db", "upgrade")

    assert upgraded.output == f"The tables were migrated from revision 0004 to revision {HEAD}.\n"


def test_upgrade_builds_missing_indexes(make_receiver: MakeReceiver, postgresql_url: str) -> None:
    """A large inbox gets its indexes after the migration, and an interrupted build is repeated."""
    receiver = make_receiver(database_url=postgresql_url, migrate="check")
    run(receiver, "db", "upgrade")
    raw_sql.execute(postgresql_url, "DROP INDEX stripe_receiver_type")

    built = run(receiver, "db", "upgrade")

    assert (built.exit_code, built.output) == (
        0,
        f"{READY}Building the indexes stripe_receiver_type. Deliveries go on.\n"
        "The indexes are built.\n",
    )
    assert run(receiver, "db", "upgrade").output == READY


def test_newer_tables_that_work(receiver: Receiver) -> None:
    """Tables of a newer version are ready if this version works with them."""
    run(receiver, "db", "upgrade")
    sql = "UPDATE stripe_receiver_version SET version_num = '9999'"
    raw_sql.execute(receiver.services.settings.database_url, sql)

    checked = run(receiver, "db", "check")

    assert checked.exit_code == 0
    assert checked.output == (
        "The tables are at revision 9999 of a newer version."
        f" This version (revision {HEAD}) works with them.\n"
    )
    shown = json.loads(run(receiver, "db", "current", "--json").output)
    assert shown == {"current": "9999", "newest": HEAD, "is_pending": False}


def test_lost_file_is_not_created(
    make_receiver: MakeReceiver, sqlite_url: str, tmp_path: Path
) -> None:
    """``upgrade`` creates no SQLite file where one is missing. ``restore`` does."""
    receiver = make_receiver(database_url=sqlite_url)
    receiver.services.inbox.migrate()
    run(receiver, "db", "backup", str(tmp_path / "backup"))
    receiver.services.inbox.close()
    file = receiver.services.inbox._store.engine._file.path  # type: ignore[attr-defined]  # noqa: SLF001 - to lose it
    file.unlink()

    upgraded = run(make_receiver(database_url=sqlite_url), "db", "upgrade")

    assert upgraded.exit_code == 1
    assert "file is missing" in upgraded.output
    assert not file.exists()
    restoring = make_receiver(database_url=sqlite_url)
    assert run(restoring, "db", "restore", str(tmp_path / "backup")).exit_code == 0
    assert file.exists()


def test_foreign_tables_are_refused(make_receiver: MakeReceiver, postgresql_url: str) -> None:
    """Each command says which table is in the way."""
    raw_sql.execute(postgresql_url, "CREATE TABLE events (title TEXT)")
    receiver = make_receiver(database_url=postgresql_url)
    for command in ("current", "check", "upgrade"):
        result = run(receiver, "db", command)
        assert result.exit_code == 1
        assert "something named 'events' that is not of this service" in str(result.exception)


def test_backup_moves_an_inbox(
    make_receiver: MakeReceiver, sqlite_url: str, postgresql_url: str, tmp_path: Path
) -> None:
    """``backup`` and ``restore`` are the way from SQLite to PostgreSQL: what ran stays known."""
    first = make_receiver({}, database_url=sqlite_url)
    notification = samples.notification("v1.customer.created")
    assert first.deliver(notification).json == {"success": True, "outcome": "fallback"}
    file = tmp_path / "backup.sqlite3"

    saved = run(first, "db", "backup", str(file))
    second = make_receiver({}, database_url=postgresql_url, migrate="check")
    restored = run(second, "db", "restore", str(file))

    assert (saved.exit_code, saved.output) == (0, f"1 event written to {file}.\n")
    assert (restored.exit_code, restored.output) == (0, f"1 event restored from {file}.\n")
    (entry,) = second.services.inbox.audit.entries(9)
    assert (entry.action, entry.target, entry.affected) == ("restore", str(file), 1)
    assert second.deliver(notification).json == {"success": True, "outcome": "duplicate"}
    again = run(second, "db", "restore", str(file))
    assert again.exit_code == 1
    assert again.output.startswith("Error: The inbox is not empty. Set DATABASE_URL to a new file")
    assert run(second, "db", "backup", str(file)).output == f"Error: {file} exists already.\n"


def test_backup_through_standard_streams(
    make_receiver: MakeReceiver, sqlite_url: str, postgresql_url: str
) -> None:
    """`-` is standard output or standard input: only the backup's bytes are on standard output."""
    first = make_receiver({}, database_url=sqlite_url)
    notification = samples.notification("v1.customer.created")
    first.deliver(notification)
    second = make_receiver({}, database_url=postgresql_url, migrate="check")

    saved = run(first, "db", "backup", "-")
    assert (saved.exit_code, saved.stderr) == (0, "1 event written to standard output.\n")
    assert saved.stdout_bytes.startswith(b"SQLite format 3\0")
    broken = second.app.test_cli_runner().invoke(args=["db", "restore", "-"], input=b"no backup")
    restored = second.app.test_cli_runner().invoke(
        args=["db", "restore", "-"], input=saved.stdout_bytes
    )

    assert broken.exit_code == 1
    assert "standard-input" in broken.output
    assert (restored.exit_code, restored.output) == (0, "1 event restored from standard input.\n")
    assert second.deliver(notification).json == {"success": True, "outcome": "duplicate"}
    assert not Path("-").exists()


@pytest.fixture
def terminal() -> Iterator[TextIO]:
    """A terminal, to be read or written."""
    master, slave = pty.openpty()
    with os.fdopen(slave, "rb+", buffering=0) as raw, io.TextIOWrapper(raw) as stream:
        yield stream
    os.close(master)


@pytest.mark.parametrize(
    ("command", "stream", "redirect"),
    [(db.back_up, "stdout", "- > FILE"), (db.restore, "stdin", "- < FILE")],
)
def test_backup_refuses_a_terminal(
    receiver: Receiver, terminal: TextIO, command: click.Command, stream: str, redirect: str
) -> None:
    """`-` needs a redirection: a terminal would get bytes, or wait for them."""
    with receiver.app.app_context(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, stream, terminal)
        with pytest.raises(click.ClickException, match=redirect):
            command.main(["-"], standalone_mode=False)


@pytest.fixture
def full_disk() -> Iterator[TextIO]:
    """A file on a full disk."""
    # The end of the block writes the rest once more.
    with suppress(OSError), Path("/dev/full").open("w", encoding="utf-8") as stream:
        yield stream


def test_backup_that_is_cut_off_fails(
    make_receiver: MakeReceiver, sqlite_url: str, full_disk: TextIO
) -> None:
    """A backup that does not fit on the disk behind standard output is an error."""
    receiver = make_receiver({}, database_url=sqlite_url)
    receiver.services.inbox.migrate()
    with (
        receiver.app.app_context(),
        redirect_stdout(full_disk),
        pytest.raises(click.ClickException, match="No space left"),
    ):
        db.back_up.main(["-"], standalone_mode=False)
