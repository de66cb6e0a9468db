"""Checkpoints of SQLite: when they run, and that no write waits for them."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Queue
from typing import Any, NoReturn
from unittest.mock import Mock

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from app.inbox import Inbox, NewEvent
from app.inbox.engine import checkpoint, group_commit, sqlite
from app.inbox.engine.checkpoint import Checkpoints
from app.inbox.engine.file_lock import FileLock
from app.runtime import threads
from tests.support import raw_sql
from tests.support.waiting import wait_for
from tests.support.writing import connection_of, engine_of, writer_of


@pytest.fixture
def inbox(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Inbox]:
    """Return an inbox with a checkpoint after every five transactions."""
    monkeypatch.setattr(checkpoint, "TRANSACTIONS", 5)
    inbox = Inbox(sqlite_url, lease_seconds=30)
    inbox.migrate()
    yield inbox
    inbox.close()


def accept(inbox: Inbox, *numbers: int) -> None:
    """Accept an event for each of the ``numbers``."""
    for number in numbers:
        name = f"evt_{number}"
        inbox.deliveries.record_and_claim(
            NewEvent(name, "v1.a", livemode=False, context=None, body=b"{}")
        )


def wait_until_counted(inbox: Inbox, number: int) -> None:
    """Wait until the writer thread has counted its transactions, which it does afterwards."""
    checkpoints = writer_of(inbox)._checkpoints  # noqa: SLF001 - no other way
    wait_for(lambda: checkpoints._transactions == number)  # noqa: SLF001 - no other way


def path_of(inbox: Inbox) -> Path:
    """Return the path of the database's file."""
    return Path(str(sa.make_url(inbox.address).database))


def pool_of(inbox: Inbox) -> sa.Engine:
    """Return the pool of the reading connections."""
    return engine_of(inbox)._connect().pool  # noqa: SLF001 - no other way


def moved(inbox: Inbox, folder: Path) -> int:
    """Return how many events stand in the database's own file, without its log."""
    copy = folder / "copy.sqlite3"
    shutil.copyfile(path_of(inbox), copy)
    with contextlib.closing(sqlite.driver.connect(copy)) as connection:
        try:
            return int(connection.execute("SELECT count(*) FROM events").fetchone()[0])
        except sqlite.driver.DatabaseError:  # it was copied half written
            return -1


def test_log_is_moved_beside_writes(inbox: Inbox, tmp_path: Path) -> None:
    """Most of a checkpoint runs beside writes. Only the rest excludes them."""
    writer = writer_of(inbox)
    accept(inbox, 1, 2, 3, 4)
    wait_until_counted(inbox, 4)
    assert moved(inbox, tmp_path) == 0
    with writer.hold_write_lock():  # the checkpoint does not get it
        writer._checkpoints.count()  # noqa: SLF001 - as for the fifth transaction
        wait_for(lambda: moved(inbox, tmp_path) == 4)
        checkpoints = writer._checkpoints  # noqa: SLF001 - no other way
        assert checkpoints._thread is not None  # noqa: SLF001 - no other way
        assert checkpoints._thread.is_alive()  # noqa: SLF001 - no other way
    checkpoints.close()

    accept(inbox, 5, 6)
    inbox.close()
    assert moved(inbox, tmp_path) == 6


def test_log_does_not_grow(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log stays about as long as after the first few checkpoints."""
    log = Path(f"{path_of(inbox)}-wal")
    started: Queue[threading.Thread] = Queue()
    run = Checkpoints._run  # noqa: SLF001 - to know its thread

    def noted(checkpoints: Checkpoints) -> None:
        started.put(threading.current_thread())
        run(checkpoints)

    monkeypatch.setattr(Checkpoints, "_run", noted)
    sizes = []
    for number in range(30):
        accept(inbox, *range(5 * number, 5 * number + 5))
        # A delivery returns before its transaction is counted, so the thread may start later. If it
        # still ran at the next count, that checkpoint would be postponed and the log be longer.
        thread = started.get(timeout=60)
        thread.join(60)
        assert not thread.is_alive()
        sizes.append(log.stat().st_size)

    assert sizes[-1] < 2 * sizes[4]


def test_many_changed_rows_count_as_many_transactions(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that removes old events writes as much as many deliveries."""
    monkeypatch.setattr(checkpoint, "TRANSACTIONS", 1000)
    accept(inbox, *range(70))
    wait_until_counted(inbox, 70)
    raw_sql.execute(inbox.address, "UPDATE events SET state = 'done', settled_at = received_at")
    assert inbox.retention.step(time.time() + 60).removed == 70
    wait_until_counted(inbox, 70 + 70 // checkpoint.ROWS_PER_TRANSACTION)


def test_last_part_waits_for_other_processes(inbox: Inbox, tmp_path: Path) -> None:
    """The last part of a checkpoint waits for the file lock."""
    writer = writer_of(inbox)
    accept(inbox, 1, 2, 3, 4)
    wait_until_counted(inbox, 4)
    inbox.administration.latest(1)  # leaves a connection: a new one would wait for the lock
    other = FileLock(Path(f"{path_of(inbox)}.lock"))
    checkpoints = writer._checkpoints  # noqa: SLF001 - no other way
    with other:
        checkpoints.count()
        wait_for(lambda: moved(inbox, tmp_path) == 4)
        wait_for(writer._write_lock.locked)  # noqa: SLF001 - it writes
        assert checkpoints._thread is not None  # noqa: SLF001 - no other way
        checkpoints._thread.join(0.1)  # noqa: SLF001 - no other way
        assert checkpoints._thread.is_alive()  # noqa: SLF001 - no other way
    checkpoints.close()
    assert not checkpoints._thread.is_alive()  # noqa: SLF001 - no other way


def test_failure_is_logged_once_until_it_succeeds(
    inbox: Inbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed checkpoint loses nothing: the commits are in the log."""
    checkpoints = writer_of(inbox)._checkpoints  # noqa: SLF001 - no other way

    def fail() -> None:
        with monkeypatch.context() as broken:
            broken.setattr(checkpoint, "_CHECKPOINT", "PRAGMA wal_checkpoint(")
            checkpoints._run()  # noqa: SLF001 - no other way

    accept(inbox, 1)

    def connection() -> object:
        with pool_of(inbox).connect() as pooled:
            return pooled.connection.driver_connection

    with capture_logs() as lines:
        used = connection()
        fail()
        assert connection() is not used  # the old one may be unable to write
        fail()
        assert moved(inbox, tmp_path) == 0
        checkpoints._run()  # noqa: SLF001 - no other way
        assert moved(inbox, tmp_path) == 1
        fail()

    assert (
        lines
        == [
            {
                "event": "checkpoint_failed",
                "log_level": "warning",
                "reason": "OperationalError: incomplete input",
            }
        ]
        * 2
    )


def test_checkpoint_that_waits_too_long_is_logged(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the write lock or a connection, the thread ends with a line, not a traceback."""
    writer = writer_of(inbox)
    monkeypatch.setattr(group_commit, "WRITE_TIMEOUT", 0.01)
    empty = sa.exc.TimeoutError("no connection is free")

    with capture_logs() as lines, writer.hold_write_lock():
        writer._checkpoints._run()  # noqa: SLF001 - no other way
        writer._checkpoints._failing = False  # noqa: SLF001 - to log the next one
        monkeypatch.setattr(pool_of(inbox), "connect", Mock(side_effect=empty))
        writer._checkpoints._run()  # noqa: SLF001 - no other way

    assert [line["reason"] for line in lines] == [
        "InboxUnavailable: the inbox is busy",
        "TimeoutError: no connection is free",
    ]


def test_thread_that_cannot_start_fails_no_write(
    inbox: Inbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transaction after which a checkpoint is due was committed before."""
    accept(inbox, 1)
    refused: list[threading.Thread] = []
    with monkeypatch.context() as full:

        def refuse(thread: threading.Thread) -> None:
            refused.append(thread)
            raise RuntimeError("can't start new thread")

        full.setattr(threading.Thread, "start", refuse)
        accept(inbox, 2, 3, 4, 5)
        wait_for(lambda: refused)

    assert len(inbox.administration.latest(10)) == 5
    accept(inbox, 6, 7, 8, 9, 10)
    wait_for(lambda: moved(inbox, tmp_path) >= 10)


def test_close_waits_for_the_checkpoint_that_runs(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A closed inbox leaves no connection of a checkpoint behind."""
    runs, go = threading.Event(), threading.Event()

    def wait(_checkpoints: Checkpoints, _connection: sa.Connection) -> None:
        runs.set()
        go.wait(30)

    monkeypatch.setattr(Checkpoints, "_checkpoint", wait)
    accept(inbox, 1, 2, 3, 4, 5)
    assert runs.wait(30)
    closing = threading.Thread(target=inbox.close)
    closing.start()
    closing.join(0.1)
    assert closing.is_alive()
    go.set()
    closing.join(30)
    assert not closing.is_alive()


def test_one_checkpoint_runs_at_a_time(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a checkpoint waits for the write lock, no second one starts."""
    started: list[object] = []
    run = Checkpoints._run  # noqa: SLF001 - to count the calls

    def counted(checkpoints: Any) -> None:
        started.append(checkpoints)
        run(checkpoints)

    monkeypatch.setattr(Checkpoints, "_run", counted)
    writer = writer_of(inbox)
    with writer.hold_write_lock():
        for _ in range(20):
            writer._checkpoints.count()  # noqa: SLF001 - as for a transaction
        wait_for(lambda: len(started) > 0)
        assert len(started) == 1
    writer._checkpoints.close()  # noqa: SLF001 - until it is done
    accept(inbox, 1)
    wait_for(lambda: len(started) > 1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("wal_autocheckpoint", sqlite.MAX_LOG_PAGES),
        ("journal_size_limit", sqlite.KEPT_LOG_BYTES),
    ],
)
def test_log_is_bounded_without_the_thread(inbox: Inbox, name: str, value: int) -> None:
    """SQLite runs a checkpoint in a commit if the log is long, and cuts a long file."""
    connection = connection_of(inbox)
    assert connection.execute(f"PRAGMA {name}").fetchone()[0] == value


def test_truncate_mode_has_no_checkpoints(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, counted: Callable[[], int]
) -> None:
    """Without WAL mode there is no log to move."""
    monkeypatch.setattr(sqlite, "VERSION", (3, 40, 1))
    monkeypatch.setattr(checkpoint, "TRANSACTIONS", 1)
    inbox = Inbox(sqlite_url, lease_seconds=30)
    accept(inbox, 1, 2)

    assert counted() == 0
    inbox.close()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Return a function that returns how many transactions were counted."""
    counts: list[None] = []
    monkeypatch.setattr(Checkpoints, "count", lambda _self: counts.append(None))
    return lambda: len(counts)


@pytest.mark.parametrize("failure", [MemoryError, SystemExit])
def test_checkpoint_is_tried_again_after_any_error(
    inbox: Inbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: type[BaseException]
) -> None:
    """After a lack of memory, or a line that cannot be logged, the next checkpoint runs."""
    monkeypatch.setattr(threads, "PAUSE_SECONDS", 0.01)
    failed: list[str] = []

    class BrokenLog:
        def __getattr__(self, name: str) -> Callable[..., None]:
            def fail(*_words: object, **_fields: object) -> None:
                failed.append(name)
                raise failure

            return fail

    with monkeypatch.context() as broken:
        broken.setattr(checkpoint, "_CHECKPOINT", "PRAGMA wal_checkpoint(")
        broken.setattr(checkpoint, "log", BrokenLog())
        broken.setattr(threads, "log", BrokenLog())
        accept(inbox, 1, 2, 3, 4, 5)
        wait_for(lambda: failed.count("warning") > 1 or failed.count("exception") > 0)

    accept(inbox, 6, 7, 8, 9, 10)
    wait_for(lambda: moved(inbox, tmp_path) >= 10)


def test_checkpoint_without_its_folder_is_logged_once(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the system is logged like one of SQLite's."""

    def refuse(*_arguments: object) -> NoReturn:
        raise PermissionError("no access")

    accept(inbox, 1)
    checkpoints = writer_of(inbox)._checkpoints  # noqa: SLF001 - no other way
    # root can enter every folder.
    monkeypatch.setattr(checkpoints._pool, "connect", refuse)  # noqa: SLF001 - as above
    with capture_logs() as lines:
        checkpoints._run()  # noqa: SLF001 - as above
        checkpoints._run()  # noqa: SLF001 - as above

    assert [line["event"] for line in lines] == ["checkpoint_failed"]
