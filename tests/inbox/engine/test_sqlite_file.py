"""SQLite's file: removed and replaced files, kept connections, and forked children."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from app.errors import InboxUnavailable
from app.inbox import Inbox, NewEvent
from app.inbox.engine import file_lock, lock_note, sqlite
from app.inbox.engine import sqlite_file as inbox_file
from app.inbox.engine.sqlite_file import SqliteFile
from app.inbox.engine.transaction import Transactions
from tests.support.waiting import wait_for
from tests.support.writing import connection_of, engine_of

HUGE = b'{"inodes": [null, null, null], "process": 1%s}' % (b"0" * 40)
EVENT = NewEvent("evt_1", "v1.a", livemode=False, context=None, body=b"{}")


@pytest.fixture
def path(sqlite_url: str) -> Path:
    """The path of SQLite's file."""
    return Path(str(sa.make_url(sqlite_url).database))


@pytest.fixture
def inbox(sqlite_url: str) -> Iterator[Inbox]:
    """An inbox that has been written to and read."""
    inbox = Inbox(sqlite_url, lease_seconds=30)
    inbox.deliveries.record_and_claim(EVENT)
    inbox.administration.latest(1)
    yield inbox
    inbox.close()


def replace(path: Path) -> None:
    """Replace SQLite's file with another one, as `mv` does."""
    other = path.with_name("other")
    with contextlib.closing(sqlite.driver.connect(path)) as connection:
        connection.execute("VACUUM INTO ?", [str(other)])
    other.replace(path)


def test_reads_change_over_too(inbox: Inbox, path: Path) -> None:
    """The first read after a replacement fails, and the next one reads the new file."""
    replace(path)

    with pytest.raises(InboxUnavailable) as raised:
        inbox.administration.latest(1)
    assert raised.value.reason == "inbox_file_replaced"
    assert [event.id for event in inbox.administration.latest(1)] == ["evt_1"]


def test_idle_connection_to_an_old_file_fails_no_read(inbox: Inbox, path: Path) -> None:
    """After the writing connection noticed the change, the reading ones are replaced silently."""
    replace(path)
    with pytest.raises(InboxUnavailable):
        inbox.check()
    inbox.check()

    assert [event.id for event in inbox.administration.latest(1)] == ["evt_1"]


def test_file_removed_during_a_transaction(
    inbox: Inbox, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit to a file that is removed before the answer does not count."""
    fetch = Transactions._fetch  # noqa: SLF001 - no other way to be there in that moment

    def remove(*arguments: Any) -> Any:
        path.unlink()
        return fetch(*arguments)

    with monkeypatch.context() as moment:
        moment.setattr(Transactions, "_fetch", remove)
        with pytest.raises(InboxUnavailable) as raised:
            inbox.check()

    assert raised.value.reason == "inbox_file_missing"


def test_file_replaced_while_it_is_opened(
    inbox: Inbox, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that may lead to either file is not used."""
    connect = sqlite.driver.connect
    inbox.close()

    def late(*arguments: Any, **named: Any) -> Any:
        monkeypatch.undo()
        replace(path)
        return connect(*arguments, **named)

    monkeypatch.setattr(sqlite.driver, "connect", late)
    with pytest.raises(InboxUnavailable) as raised:
        inbox.check()

    assert raised.value.reason == "inbox_file_replaced"
    inbox.check()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (replace, "inbox_file_replaced"),
        (lambda path: Path(f"{path}-wal").unlink(), "inbox_index_missing"),
        (lambda path: Path(f"{path}-shm").unlink(), "inbox_index_missing"),
    ],
    ids=["file", "log", "index"],
)
def test_file_changed_after_it_was_opened(
    sqlite_url: str, path: Path, change: Callable[[Path], object], reason: str
) -> None:
    """A change before the inodes are read is noticed: the connection leads to the former file."""
    with contextlib.closing(Inbox(sqlite_url, lease_seconds=30)) as inbox:
        inbox.check()

    def prepare(connection: Any) -> None:
        sqlite.prepare(connection)
        connection.execute("SELECT 1 FROM sqlite_schema").fetchall()
        change(path)

    file = SqliteFile(sa.make_url(sqlite_url), prepare)
    with pytest.raises(InboxUnavailable) as raised:
        file.connect()

    assert raised.value.reason == reason


def test_log_that_cannot_be_saved_now_is_saved_later(inbox: Inbox, path: Path) -> None:
    """While another connection still reads an older state, no new log is begun."""
    writing = connection_of(inbox)
    connections = engine_of(inbox)._file._connections  # noqa: SLF001 - no other way
    reading = next(each for each in connections if each is not writing)
    reading.execute(f"PRAGMA busy_timeout = {sqlite.BUSY_TIMEOUT_MS}")
    reading.execute("BEGIN")
    assert reading.execute("SELECT count(*) FROM events").fetchone() == (1,)
    inbox.deliveries.record_and_claim(
        NewEvent("evt_2", "v1.a", livemode=False, context=None, body=b"{}")
    )
    writing.execute("PRAGMA busy_timeout = 10")

    Path(f"{path}-wal").unlink()
    for _ in range(3):
        with pytest.raises(InboxUnavailable) as raised:
            inbox.check()
        assert raised.value.reason == "inbox_log_missing"
    reading.execute("COMMIT")
    inbox.check()

    assert {event.id for event in inbox.administration.latest(10)} == {"evt_1", "evt_2"}


def test_removed_index_needs_a_restart(inbox: Inbox, path: Path) -> None:
    """Other processes make a new index. One with the old index neither reads nor writes."""
    Path(f"{path}-shm").unlink()

    for _ in range(3):
        with pytest.raises(InboxUnavailable) as raised:
            inbox.check()
        assert raised.value.reason == "inbox_index_missing"
        with pytest.raises(InboxUnavailable):
            inbox.administration.latest(1)


def test_file_replaced_between_two_connections(inbox: Inbox, path: Path) -> None:
    """A process without a connection still recognizes its file."""
    inbox.close()
    replace(path)

    with pytest.raises(InboxUnavailable) as raised:
        inbox.check()
    assert raised.value.reason == "inbox_file_replaced"
    inbox.check()


def test_file_removed_between_two_connections(inbox: Inbox, path: Path) -> None:
    """A process without a connection does not create a missing file."""
    inbox.close()
    path.unlink()

    for _ in range(2):
        with pytest.raises(InboxUnavailable) as raised:
            inbox.check()
        assert raised.value.reason == "inbox_file_missing"
    assert not path.exists()


def test_folder_that_cannot_be_searched_closes_no_connection(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the folder cannot be searched, closing could remove the log of another database."""
    connection = connection_of(inbox)

    def refuse(_file: SqliteFile) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as closed:  # root can search every folder
        closed.setattr(SqliteFile, "look", refuse)
        with pytest.raises(InboxUnavailable) as raised:
            inbox.check()
    assert raised.value.reason == "PermissionError: [Errno 13] Permission denied"
    assert connection.execute("SELECT 1").fetchone() == (1,)
    inbox.check()


@pytest.mark.parametrize(
    "note",
    [
        b"",
        b"{",
        b"[]",
        b'{"inodes": [1, 2, 3], "process": 1}',
        b'{"inodes": [null]}',
        b"\xff",
        HUGE,
    ],
)
def test_broken_note_is_ignored(inbox: Inbox, path: Path, note: bytes) -> None:
    """A lock file of an earlier version, or one that was not written to its end, has no note."""
    inbox.close()
    Path(f"{path}.lock").write_bytes(note)

    inbox.check()
    found = inbox.examine()

    assert found is not None
    assert found.known


def test_process_of_another_user_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that may not be sent a signal is alive."""

    def refuse(_process: int, _signal: int) -> None:
        raise PermissionError

    # The tests may run as root, which can send a signal to every process.
    monkeypatch.setattr(os, "kill", refuse)
    assert lock_note.is_alive(1)


def test_path_may_be_a_link(tmp_path: Path) -> None:
    """SQLite keeps the log beside the file that a link leads to. The link can be changed."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    link = tmp_path / "inbox.sqlite3"
    link.symlink_to(tmp_path / "first" / "data")
    (tmp_path / "first" / "data").touch()
    (tmp_path / "second" / "data").touch()
    inbox = Inbox(f"sqlite:///{link}", lease_seconds=30)
    inbox.deliveries.record_and_claim(EVENT)

    moved = tmp_path / "moved"
    moved.symlink_to(tmp_path / "second" / "data")
    moved.replace(link)
    with pytest.raises(InboxUnavailable):
        inbox.check()
    inbox.check()

    assert inbox.administration.latest(10) == []
    assert list((tmp_path / "first").glob("data-wal*")) == [tmp_path / "first" / "data-wal"]
    inbox.close()


#: A child that survives its parent, which is killed while it holds the lock.
FORK = """
import os, sys, time
from app.inbox import Inbox

inbox = Inbox(sys.argv[1], lease_seconds=30)
inbox.check()
inbox.administration.latest(1)
writer = inbox._store.engine._connect().writer
with writer._lock:
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        time.sleep(600)
    time.sleep(600)
"""


@pytest.mark.processes
def test_child_does_not_hold_its_parents_lock(sqlite_url: str) -> None:
    """After a process is killed while it writes, its child does not block other writers."""
    parent = subprocess.Popen([sys.executable, "-c", FORK, sqlite_url], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    try:
        parent.kill()
        parent.wait(30)
        parent.stdout.close()
        inbox = Inbox(sqlite_url, lease_seconds=30)
        inbox.check()
        inbox.close()
    finally:
        os.kill(child, signal.SIGKILL)


#: A child that exits normally after its parent was killed.
EXIT = """
import os, signal, sys, time
from app.inbox import Inbox, NewEvent

inbox = Inbox(sys.argv[1], lease_seconds=30)
event = NewEvent("evt_1", "v1.a", livemode=False, context=None, body=b"{}")
inbox.deliveries.record_and_claim(event)
inbox.administration.latest(1)
parent = os.getpid()
if os.fork() == 0:
    print(os.getpid(), flush=True)
    while os.getppid() == parent:
        time.sleep(0.01)
    sys.exit()
time.sleep(600)
"""


@pytest.mark.processes
def test_child_closes_no_connection_of_its_parents(sqlite_url: str, path: Path) -> None:
    """The last connection that is closed removes the log. A child's copy is never closed."""
    parent = subprocess.Popen([sys.executable, "-c", EXIT, sqlite_url], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    log = Path(f"{path}-wal").read_bytes()
    parent.kill()
    parent.wait(30)
    assert parent.stdout.read() == b""  # the child has ended
    parent.stdout.close()

    wait_for(lambda: not Path(f"/proc/{child}/fd").exists() or not list_open(child))
    assert Path(f"{path}-wal").read_bytes() == log


@pytest.mark.processes
def test_child_that_closes_what_it_inherited_closes_nothing(inbox: Inbox, path: Path) -> None:
    """Closing a connection of the parent in a child has no effect."""
    connection = connection_of(inbox)
    child = os.fork()
    if child == 0:
        connection.close()
        os._exit(0 if connection.execute("SELECT 1").fetchone() == (1,) else 1)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    inbox.check()
    assert Path(f"{path}-wal").exists()


def test_files_are_created_private(
    sqlite_url: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No other user can open a file when it is created."""
    # Only the mode at creation counts here.
    monkeypatch.setattr(inbox_file, "make_private", lambda _file: None)
    monkeypatch.setattr(file_lock, "make_private", lambda _file: None)
    mask = os.umask(0)
    try:
        inbox = Inbox(sqlite_url, lease_seconds=30)
        inbox.check()
        found = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
    finally:
        os.umask(mask)
    inbox.close()

    names = [f"inbox.sqlite3{suffix}" for suffix in ("", "-wal", "-shm", ".lock")]
    assert found == dict.fromkeys(names, 0o600)


def list_open(pid: int) -> list[str]:
    """Return the files that a process has open: none when it is a zombie."""
    with contextlib.suppress(OSError):
        return os.listdir(f"/proc/{pid}/fd")  # noqa: PTH208 - names are enough
    return []


#: Exits normally with connections to a file that was replaced.
ABANDON = """
import sys
from pathlib import Path
from app.errors import InboxUnavailable
from app.inbox import Inbox, NewEvent

inbox = Inbox(sys.argv[1], lease_seconds=30)
event = NewEvent("evt_1", "v1.a", livemode=False, context=None, body=b"{}")
inbox.deliveries.record_and_claim(event)
inbox.administration.latest(1)
path = inbox._store.engine._file.path
away = path.rename(path.with_name("away"))
try:
    inbox.check()
except InboxUnavailable:
    pass
away.rename(path)  # where SQLite itself would close, and remove the log
Path(f"{path}-wal").rename(path.with_name("old"))
Path(f"{path}-wal").write_bytes(b"of another")
"""


@pytest.mark.processes
def test_abandoned_connection_is_not_closed_at_exit(sqlite_url: str, path: Path) -> None:
    """The log at the path may belong to another file by then."""
    subprocess.run([sys.executable, "-c", ABANDON, sqlite_url], check=True, timeout=120)

    assert Path(f"{path}-wal").read_bytes() == b"of another"


def test_lock_is_free_after_each_connection(inbox: Inbox, path: Path) -> None:
    """Opening a connection to read leaves no descriptor of the lock behind."""
    descriptors = [each for each in Path("/proc/self/fd").iterdir() if links_to(each, path)]
    assert len(descriptors) == 1  # that of the writer thread
    with Path(f"{path}.lock").open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    inbox.check()


def links_to(descriptor: Path, path: Path) -> bool:
    """Return True if the descriptor is one of the lock file."""
    with contextlib.suppress(OSError):
        return str(descriptor.readlink()) == f"{path}.lock"
    return False
