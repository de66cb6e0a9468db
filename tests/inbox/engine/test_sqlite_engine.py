"""The engine for SQLite, and what both engines have in common."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
import sqlalchemy as sa

from app.errors import InboxUnavailable, Unstorable
from app.inbox import Inbox
from app.inbox.engine import group_commit, sqlite, sqlite_engine
from app.inbox.engine.choice import engine_for
from app.inbox.engine.file_lock import FileLock
from app.inbox.engine.sqlite_file import SqliteFile
from tests.support.writing import EVENT, connection_of, writer_of


def test_folder_is_created(tmp_path: Path) -> None:
    """A fresh volume is empty: the folder of the file is created."""
    inbox = Inbox(f"sqlite:///{tmp_path}/a/b/inbox.sqlite3", lease_seconds=30)
    inbox.check()
    inbox.close()

    assert (tmp_path / "a" / "b" / "inbox.sqlite3").is_file()


def test_folder_that_cannot_be_created_is_unavailable(tmp_path: Path) -> None:
    """A path that leads through a file is an outage, with the reason for the log."""
    (tmp_path / "file").touch()
    inbox = Inbox(f"sqlite:///{tmp_path}/file/inbox.sqlite3", lease_seconds=30)

    with pytest.raises(InboxUnavailable, match="the inbox is not available") as raised:
        inbox.check()
    assert "Error: " in raised.value.reason


def test_broken_file_is_unavailable(tmp_path: Path) -> None:
    """A file that is no database is reported and not changed."""
    file = tmp_path / "inbox.sqlite3"
    file.write_bytes(b"no database" * 1000)
    inbox = Inbox(f"sqlite:///{file}", lease_seconds=30)

    with pytest.raises(InboxUnavailable) as raised:
        inbox.check()
    assert raised.value.reason == "DatabaseError: file is not a database"
    assert file.read_bytes() == b"no database" * 1000


def test_failed_statement_does_not_spoil_the_next(sqlite_url: str) -> None:
    """The next statement after a failed one works, for writing and for reading."""
    engine = engine_for(sqlite_url, {})
    Inbox(sqlite_url, lease_seconds=30).migrate()
    wrong = sa.text("SELECT * FROM nothing")

    for attempt in (engine.execute, engine.read):
        with pytest.raises(InboxUnavailable, match="the inbox is not available"):
            attempt(wrong, {})
        assert engine.read(sa.text("SELECT 1"), {})
    engine.close()


def test_lack_of_memory_is_an_outage(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The result of a callback is recorded later, and not given up as one that cannot be stored."""
    inbox = Inbox(sqlite_url, lease_seconds=30)
    inbox.check()

    def fail(*_arguments: object) -> None:
        raise MemoryError

    with monkeypatch.context() as full:
        # Memory cannot be made short for one call.
        full.setattr(SqliteFile, "verify", fail)
        with pytest.raises(InboxUnavailable) as raised:
            inbox.check()
    assert raised.value.reason.startswith("MemoryError")
    inbox.check()
    inbox.close()


def test_close_of_an_unused_engine_does_nothing(sqlite_url: str) -> None:
    """A command that did not use the inbox can close it, and creates no file."""
    engine = engine_for(sqlite_url, {})
    engine.close()

    assert not Path(str(sa.make_url(sqlite_url).database)).exists()


def test_close_does_not_wait_for_ever(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If another thread writes for long, the connection is closed after its transaction."""
    inbox = Inbox(sqlite_url, lease_seconds=30)
    inbox.check()
    writer, connection = writer_of(inbox), connection_of(inbox)
    monkeypatch.setattr(group_commit, "WRITE_TIMEOUT", 0.05)

    with writer.hold_write_lock():
        thread = writer._thread  # noqa: SLF001 - to wait for its end
        inbox.close()
        assert connection.execute("SELECT 1").fetchone() == (1,)

    assert thread is not None
    thread.join(30)
    with pytest.raises(sqlite.driver.ProgrammingError):
        connection.execute("SELECT 1")


@pytest.mark.processes
@pytest.mark.parametrize("closed", [False, True])
def test_process_can_fork(database_url: str, *, closed: bool) -> None:
    """A forked child makes its own connection and writer thread. The parent keeps its own."""
    inbox = Inbox(database_url, lease_seconds=30)
    inbox.deliveries.record_and_claim(EVENT)
    if closed:
        inbox.close()

    child = os.fork()
    if child == 0:
        inbox.check()
        gc.collect()
        os._exit(0 if inbox.administration.find(EVENT.id) else 1)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    inbox.check()
    inbox.close()


def test_file_lock_held_elsewhere_is_unavailable(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped process that holds the lock blocks others for seconds, not for ever."""
    inbox = Inbox(sqlite_url, lease_seconds=30)
    inbox.check()
    other = FileLock(tmp_path / "var" / "inbox.sqlite3.lock")
    monkeypatch.setattr(group_commit, "WRITE_TIMEOUT", 0.05)

    with other, pytest.raises(InboxUnavailable) as raised:
        inbox.check()
    assert raised.value.reason == "inbox_locked"
    monkeypatch.undo()
    inbox.check()
    other.close()
    inbox.close()


def test_first_statement_does_not_wait_for_a_minute(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A delivery or a command that has to check the tables first waits as long as any other."""
    Inbox(sqlite_url, lease_seconds=30).migrate()
    inbox = Inbox(sqlite_url, lease_seconds=30)
    other = FileLock(tmp_path / "var" / "inbox.sqlite3.lock")
    monkeypatch.setattr(sqlite_engine, "TIMEOUT", 0.05)

    with other, pytest.raises(InboxUnavailable) as raised:
        inbox.administration.latest(1)
    assert raised.value.reason == "inbox_locked"
    assert inbox.administration.latest(1) == []
    other.close()
    inbox.close()


def test_errors_do_not_quote_parameters(sqlite_url: str) -> None:
    """SQLAlchemy would quote the parameters of a failed statement, and one is the body."""
    inbox = Inbox(sqlite_url, lease_seconds=30)
    inbox.migrate()
    statement = sa.text("INSERT INTO events (id, body) VALUES ('evt_1', :body)")

    with pytest.raises(InboxUnavailable) as raised:
        inbox._store.engine.execute(statement, {"body": b"marker"})  # noqa: SLF001 - no statement fails so
    assert "marker" not in str(raised.value.__cause__)
    assert "marker" not in raised.value.reason
    inbox.close()


def test_refused_value_is_no_outage(sqlite_url: str) -> None:
    """A value over SQLite's limit would be refused for ever, so it raises ``Unstorable``."""
    inbox = Inbox(sqlite_url, lease_seconds=30)
    inbox.check()
    too_big = sa.text("SELECT zeroblob(2000000000)")

    with pytest.raises(Unstorable, match="too big"):
        inbox._store.engine.execute(too_big, {})  # noqa: SLF001 - no event is so big
    inbox.check()
    inbox.close()
