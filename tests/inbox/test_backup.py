"""Backups: one file for both databases, written from a live inbox, restored into an empty one."""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from app.errors import InboxUnavailable
from app.inbox import Claim, Event, Failure, Inbox, NewEvent
from app.inbox import backup as backups
from app.inbox.backup import BackupError
from app.inbox.migrate import migrations
from app.inbox.sql.literals import word
from app.inbox.sql.operations import audit, error_groups, error_hours, releases, type_pauses
from app.inbox.sql.schema import effects, now
from tests.support import raw_sql
from tests.support.inboxes import MakeInbox

pytestmark = pytest.mark.no_tables

EVENT = NewEvent(
    "evt_1", "v1.customer.created", livemode=True, context="acct_ü", body=b'{"a": "\x00\xff"}'
)
HEAD = migrations().head
MANY = backups.BATCH_SIZE + 1


@pytest.fixture
def make_target(
    request: pytest.FixtureRequest, open_inbox: MakeInbox, tmp_path: Path
) -> Callable[[str], Inbox]:
    """A function that opens another inbox, in a database that has no tables yet."""

    def make(kind: str) -> Inbox:
        if kind == "sqlite":
            return open_inbox(f"sqlite:///{tmp_path}/target/inbox.sqlite3")
        return open_inbox(request.getfixturevalue("postgresql_url"), schema="target")

    return make


@pytest.fixture
def inbox(open_inbox: MakeInbox, database_url: str) -> Inbox:
    """An inbox with an event of each kind."""
    inbox = open_inbox(database_url)
    inbox.migrate()
    inbox.claims.fail(claim(inbox), Failure("broken", delay=0.0, traceback="at line 1"))
    inbox.claims.finish(claim(inbox))
    inbox.effects.record("evt_1", "mail")
    inbox.pairs.note("evt_1", "evt_snapshot")
    for name in ("first", "second"):
        raw_sql.note_retry(database_url, "evt_1", by=name)
    for number in range(MANY):
        inbox.deliveries.enqueue(replace(EVENT, id=f"evt_many_{number}", livemode=False))
    assert claim(inbox, replace(EVENT, id="evt_running")).attempt == 1
    inbox.administration.pause(by="me", why="a move")
    inbox.reconciliation.advance_watermark(
        livemode=True, context="", type_="v1.customer.created", begin=0.0, end=5.0
    )
    for sql in (
        "INSERT INTO stripe_receiver_audit (at, \"by\", action) VALUES (1, 'me', 'pause')",
        "INSERT INTO stripe_receiver_error_groups VALUES"
        " ('f1', 'KeyError', 'handlers/a.py:1', 'v1.a', 1, 2, 3, 'evt_1', 'r1')",
        "INSERT INTO stripe_receiver_error_hours VALUES ('f1', 7, 'r1', 3)",
        "INSERT INTO stripe_receiver_pair_holds VALUES ('evt_snapshot', 'evt_1', 't')",
        "INSERT INTO stripe_receiver_releases VALUES ('r1', 1)",
        "INSERT INTO stripe_receiver_type_pauses VALUES ('v1.a', 1, 'me', 'broken')",
    ):
        raw_sql.execute(database_url, sql)
    return inbox


def claim(inbox: Inbox, event: NewEvent = EVENT) -> Claim:
    """Deliver an event that has to get the claim."""
    found = inbox.deliveries.record_and_claim(event).claim
    assert found is not None
    return found


def content(inbox: Inbox) -> dict[str, object]:
    """Return everything that a backup has to keep."""
    administration = inbox.administration
    events: list[Event] = administration.latest(2 * MANY)
    return {
        "events": sorted(events, key=lambda event: event.id),
        "attempts": administration.attempts("evt_1"),
        "retries": administration.retries("evt_1"),
        "paused": administration.paused(),
        "watermarks": inbox.reconciliation.watermarks(livemode=True, context=""),
    }


def of_operators(inbox: Inbox) -> dict[str, list[tuple[object, ...]]]:
    """Return the rows of the tables of newer releases that a backup has to keep."""
    tables = (effects, audit, error_groups, error_hours, releases, type_pauses)
    read = inbox._store.read  # noqa: SLF001 - all columns, also those that no command shows
    return {each.name: [tuple(row) for row in read(sa.select(each))] for each in tables}


@pytest.mark.parametrize("target", ["sqlite", "postgresql"])
def test_backup_restores_into_both_databases(
    inbox: Inbox, make_target: Callable[[str], Inbox], tmp_path: Path, target: str
) -> None:
    """Everything that an operator can see is the same afterwards, and the inbox works on."""
    file = tmp_path / "backup.sqlite3"

    assert inbox.back_up(file) == MANY + 2
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    restored = make_target(target)
    restored.migrate()
    note = sa.insert(releases).values(release=word("r2"), first_at=now())
    restored._store.write(note)  # noqa: SLF001 - as a start does, before there are events
    assert restored.restore(file) == MANY + 2

    assert content(restored) == content(inbox)
    assert of_operators(restored) == of_operators(inbox)
    assert all(of_operators(inbox).values())
    assert restored.deliveries.record_and_claim(EVENT).state == "done"
    assert restored.administration.reopen("evt_1", by="third", why=None, again=True)
    assert [each.by for each in restored.administration.retries("evt_1")] == [
        "first",
        "second",
        "third",
    ]
    assert [path.name for path in tmp_path.iterdir() if "backup" in path.name] == [file.name]
    assert restored.back_up(tmp_path / "again.sqlite3") == MANY + 2


def test_backup_is_an_inbox(inbox: Inbox, open_inbox: MakeInbox, tmp_path: Path) -> None:
    """The file can be opened like any inbox on SQLite."""
    inbox.back_up(tmp_path / "backup.sqlite3")
    opened = open_inbox(f"sqlite:///{tmp_path}/backup.sqlite3", migrates=False)
    opened.migrate()
    assert content(opened) == content(inbox)


def test_backup_has_the_state_of_one_moment(inbox: Inbox) -> None:
    """What is recorded while a backup is being written is not in it, not even in part."""
    count = sa.text("SELECT count(*) FROM events")
    with inbox._store.engine.snapshot() as connection:  # noqa: SLF001 - to write in the middle
        before = connection.execute(count).scalar_one()
        inbox.deliveries.enqueue(replace(EVENT, id="evt_later"))
        assert connection.execute(count).scalar_one() == before
    assert inbox.administration.find("evt_later") is not None


def test_backup_of_an_older_release(
    inbox: Inbox, open_inbox: MakeInbox, database_url: str, tmp_path: Path
) -> None:
    """It can be made before an upgrade, with the new version, and be restored after it."""
    before_backup = content(inbox)
    raw_sql.make_older(database_url, "0004")
    file = tmp_path / "backup.sqlite3"
    before = open_inbox(database_url, migrates=False)

    before.back_up(file)

    url = f"sqlite:///{file}"
    assert raw_sql.select(url, "stripe_receiver_version")[0][0] == "0004"
    restored = open_inbox(f"sqlite:///{tmp_path}/target.sqlite3")
    restored.restore(file)
    assert content(restored) == before_backup
    assert raw_sql.select(url, "stripe_receiver_version")[0][0] == "0004"
    assert restored.revisions() == (HEAD, HEAD, False)


def test_inbox_of_the_first_release(open_inbox: MakeInbox, sqlite_url: str, tmp_path: Path) -> None:
    """Tables that a revision does not have yet are left out."""
    inbox = open_inbox(sqlite_url)
    inbox.check()
    raw_sql.make_older(sqlite_url, "0001")

    file = tmp_path / "backup.sqlite3"
    assert open_inbox(sqlite_url, migrates=False).back_up(file) == 0
    assert open_inbox(f"sqlite:///{tmp_path}/target.sqlite3").restore(file) == 0


class TestRefusals:
    """Nothing is overwritten, and each sentence says what is wrong."""

    def test_inbox_that_is_not_empty(self, inbox: Inbox, tmp_path: Path) -> None:
        """A restore adds nothing to an inbox that has events."""
        inbox.back_up(tmp_path / "backup.sqlite3")
        before = content(inbox)
        with pytest.raises(BackupError, match=r"not empty\. Set DATABASE_URL to a new"):
            inbox.restore(tmp_path / "backup.sqlite3")
        assert content(inbox) == before

    def test_file_that_exists(self, open_inbox: MakeInbox, sqlite_url: str, tmp_path: Path) -> None:
        """A backup replaces no file."""
        inbox = open_inbox(sqlite_url)
        inbox.check()
        (tmp_path / "backup").write_text("mine")
        with pytest.raises(BackupError, match="exists already"):
            inbox.back_up(tmp_path / "backup")
        assert (tmp_path / "backup").read_text() == "mine"

    def test_folder_that_is_missing(
        self, open_inbox: MakeInbox, sqlite_url: str, tmp_path: Path
    ) -> None:
        """The sentence names the file and the reason."""
        inbox = open_inbox(sqlite_url)
        inbox.check()
        with pytest.raises(BackupError, match=r"backup cannot be used \(.*No such file"):
            inbox.back_up(tmp_path / "missing" / "backup")

    @pytest.mark.parametrize(
        ("content", "words"),
        [(None, "cannot be used"), (b"text" * 999, "not a database"), (b"", "is no backup")],
    )
    def test_file_that_is_no_backup(
        self,
        open_inbox: MakeInbox,
        sqlite_url: str,
        tmp_path: Path,
        content: bytes | None,
        words: str,
    ) -> None:
        """A missing file, another file and an empty one are refused before anything is created."""
        file = tmp_path / "backup"
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(BackupError, match=words):
            open_inbox(sqlite_url).restore(file)
        assert not Path(sqlite_url.removeprefix("sqlite:///")).exists()

    @pytest.mark.parametrize("works_with", ["9999", HEAD])
    def test_newer_tables(
        self, open_inbox: MakeInbox, sqlite_url: str, tmp_path: Path, works_with: str
    ) -> None:
        """Columns of a newer version would be lost: it has to back up, and to restore."""
        source = open_inbox(sqlite_url)
        source.migrate()
        file = tmp_path / "backup"
        source.back_up(file)
        newer = (
            f"UPDATE stripe_receiver_version SET version_num = '9999', works_with = '{works_with}'"  # noqa: S608 - the test's own
        )
        raw_sql.execute(f"sqlite:///{file}", newer)
        target = open_inbox(f"sqlite:///{tmp_path}/target.sqlite3")
        with pytest.raises(BackupError, match="or one of a newer version"):
            target.restore(file)

    def test_inbox_with_newer_tables(
        self, open_inbox: MakeInbox, sqlite_url: str, tmp_path: Path
    ) -> None:
        """This version works with them, but would lose their new columns."""
        inbox = open_inbox(sqlite_url)
        inbox.migrate()
        inbox.back_up(tmp_path / "one")
        raw_sql.execute(sqlite_url, "UPDATE stripe_receiver_version SET version_num = '9999'")
        with pytest.raises(BackupError, match="Back them up with that version"):
            inbox.back_up(tmp_path / "two")
        with pytest.raises(BackupError, match="Restore with that version"):
            inbox.restore(tmp_path / "one")

    def test_inbox_without_tables(self, open_inbox: MakeInbox, postgresql_url: str) -> None:
        """There is nothing to back up."""
        with pytest.raises(BackupError, match="the inbox has no tables"):
            open_inbox(postgresql_url).back_up(Path("backup"))

    def test_inbox_that_fails_in_the_middle(self, inbox: Inbox, database_url: str) -> None:
        """An error of the inbox is not reported as one of the file."""
        raw_sql.execute(database_url, "ALTER TABLE watermarks RENAME TO former_watermarks")
        raw_sql.execute(database_url, "CREATE VIEW watermarks AS SELECT 1 AS reached")
        with pytest.raises(InboxUnavailable), inbox._store.engine.snapshot() as source:  # noqa: SLF001 - past the check of the tables
            list(backups._read(source, HEAD))  # noqa: SLF001 - as above
