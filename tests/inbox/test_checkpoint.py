"""Checkpoints of SQLite: when they run, and that nobody waits for them."""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from app.inbox import Inbox, NewEvent, checkpoint, sqlite
from app.inbox.sqlite import SqliteWriter
from tests.waiting import wait_for


@pytest.fixture
def inbox(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Inbox]:
    """Return an inbox with a checkpoint after every five transactions."""
    monkeypatch.setattr(checkpoint, "TRANSACTIONS", 5)
    inbox = Inbox(sqlite_url, lease_seconds=30)
    inbox.migrate()
    yield inbox
    inbox.close()


def writer_of(inbox: Inbox) -> SqliteWriter:
    """Return what writes for the ``inbox``."""
    writer = inbox._database._get_writer()  # noqa: SLF001 - no other way
    assert isinstance(writer, SqliteWriter)
    return writer


def accept(inbox: Inbox, *numbers: int) -> None:
    """Accept an event for each of the ``numbers``."""
    for number in numbers:
        name = f"evt_{number}"
        inbox.accept(NewEvent(name, "v1.a", livemode=False, context=None, body=b"{}"))


def moved(inbox: Inbox, folder: Path) -> int:
    """Return how many events stand in the database's own file, without its log."""
    file = inbox._database.file  # noqa: SLF001 - no other way
    assert file is not None
    copy = folder / "copy.sqlite3"
    shutil.copyfile(file, copy)
    with contextlib.closing(sqlite.driver.connect(copy)) as connection:
        try:
            return int(connection.execute("SELECT count(*) FROM events").fetchone()[0])
        except sqlite.driver.DatabaseError:  # it was copied half written
            return -1


def test_log_is_moved_while_others_may_write(inbox: Inbox, tmp_path: Path) -> None:
    """Most of a checkpoint needs nobody's turn, and what came meanwhile is moved in its own."""
    writer = writer_of(inbox)
    accept(inbox, 1, 2, 3, 4)
    assert moved(inbox, tmp_path) == 0
    with writer.turn():  # so that the checkpoint gets none
        writer._write([])  # noqa: SLF001 - the fifth transaction
        wait_for(lambda: moved(inbox, tmp_path) == 4)
        checkpoints = writer._checkpoints  # noqa: SLF001 - no other way
        assert checkpoints._thread is not None  # noqa: SLF001 - no other way
        assert checkpoints._thread.is_alive()  # noqa: SLF001 - no other way
    checkpoints.close()

    accept(inbox, 5, 6)
    inbox.close()
    assert moved(inbox, tmp_path) == 6


def test_log_begins_anew(inbox: Inbox) -> None:
    """However much is written, the log stays as long as it is between two checkpoints."""
    file = inbox._database.file  # noqa: SLF001 - no other way
    log = Path(f"{file}-wal")
    sizes = []
    for first in range(0, 150, 5):
        accept(inbox, *range(first, first + 5))
        writer_of(inbox)._checkpoints.close()  # noqa: SLF001 - until it is done
        sizes.append(log.stat().st_size)

    assert sizes[-1] < 2 * sizes[4]


def test_failed_checkpoint_is_said_and_tried_again(
    inbox: Inbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writing goes on without it: what is committed stands in the log."""
    with monkeypatch.context() as broken, capture_logs() as lines:
        broken.setattr(checkpoint, "_CHECKPOINT", "PRAGMA wal_checkpoint(")
        accept(inbox, 1, 2, 3, 4, 5)
        writer_of(inbox)._checkpoints.close()  # noqa: SLF001 - until it has failed
    assert [(line["event"], line["log_level"]) for line in lines] == [
        ("checkpoint_failed", "warning")
    ]
    assert "OperationalError" in lines[0]["reason"]
    assert moved(inbox, tmp_path) == 0

    accept(inbox, 6, 7, 8, 9, 10)
    wait_for(lambda: moved(inbox, tmp_path) >= 10)


def test_thread_that_cannot_start_fails_no_delivery(
    inbox: Inbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transaction that asks for a checkpoint was committed before it asks."""
    with monkeypatch.context() as full:

        def refuse(_thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        full.setattr(threading.Thread, "start", refuse)
        accept(inbox, 1, 2, 3, 4, 5)

    assert len(inbox.latest(10)) == 5
    accept(inbox, 6, 7, 8, 9, 10)
    wait_for(lambda: moved(inbox, tmp_path) >= 10)


def test_one_checkpoint_runs_at_a_time(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one waits for its turn, no other begins."""
    started: list[object] = []
    run = checkpoint.Checkpoints._run  # noqa: SLF001 - to count the calls

    def counted(checkpoints: Any) -> None:
        started.append(checkpoints)
        run(checkpoints)

    monkeypatch.setattr(checkpoint.Checkpoints, "_run", counted)
    writer = writer_of(inbox)
    with writer.turn():
        for _ in range(20):
            writer._write([])  # noqa: SLF001 - a transaction in the turn of this thread
        wait_for(lambda: len(started) > 0)
        assert len(started) == 1
    writer._checkpoints.close()  # noqa: SLF001 - until it is done
    accept(inbox, 1)
    wait_for(lambda: len(started) > 1)


def test_commit_does_it_when_nobody_comes(inbox: Inbox) -> None:
    """A log does not grow for ever where no thread can be started."""
    rows = inbox._database.read(sa.text("PRAGMA wal_autocheckpoint"), {})  # noqa: SLF001 - no other way
    assert rows[0][0] == checkpoint.MOST_PAGES


def test_without_a_log_there_is_none(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, counted: Callable[[], int]
) -> None:
    """An SQLite that is used in TRUNCATE mode has nothing to move."""
    monkeypatch.setattr(sqlite, "VERSION", (3, 40, 1))
    monkeypatch.setattr(checkpoint, "TRANSACTIONS", 1)
    inbox = Inbox(sqlite_url, lease_seconds=30)
    accept(inbox, 1, 2)

    assert counted() == 0
    inbox.close()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Return what says how many transactions were counted."""
    counts: list[None] = []
    monkeypatch.setattr(checkpoint.Checkpoints, "count", lambda _self: counts.append(None))
    return lambda: len(counts)
