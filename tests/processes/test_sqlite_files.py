"""Events that were answered 2xx are in the file at the path. With the real gunicorn."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from app.errors import InboxUnavailable
from app.inbox import Inbox
from app.inbox.engine import sqlite
from app.inbox.filters import EventFilter
from tests.support import raw_sql
from tests.support.services import (
    ACCEPTED,
    DEADLINE,
    DUPLICATE,
    EVENT_TYPE,
    HANDLED,
    HANDLER,
    ROOT,
    Lab,
    Postgresql,
    Service,
    children_of,
    is_alive,
    stop_process,
)
from tests.support.waiting import wait_for

pytestmark = pytest.mark.no_tables

MODULE = EVENT_TYPE.replace(".", "_")
MISSING = (503, "the inbox's file is missing")
REPLACED = (503, "the inbox's file was replaced")
LOST_LOG = (503, "the log beside the inbox's file was removed or replaced")
LOST_INDEX = (503, "the index beside the inbox's file was removed or replaced")
EVENTS = [f"evt_{number}" for number in range(8)]
PROCESSES = 2


@pytest.fixture
def lab(tmp_path: Path, make_handlers: Callable[..., str]) -> Iterator[Lab]:
    """Services whose callbacks the test controls, ended with the test."""
    name = make_handlers(**{MODULE: HANDLER})
    lab = Lab(tmp_path / "packages" / name)
    try:
        yield lab
    finally:
        lab.close()


@pytest.fixture
def file(sqlite_url: str) -> Path:
    """SQLite's file."""
    return Path(str(sa.make_url(sqlite_url).database))


def start(lab: Lab, url: str) -> Service:
    """Start a service that records events and runs none."""
    return lab.start(url, PROCESSING="queue", WORKER_THREADS=0)


def kill(service: Service) -> None:
    """End the service and its workers with SIGKILL."""
    family = [service.process.pid, *children_of(service.process.pid)]
    for pid in family:
        os.kill(pid, signal.SIGKILL)
    service.process.wait(DEADLINE)
    wait_for(lambda: not any(map(is_alive, family)), DEADLINE)


def repeat_until_logged(service: Service, name: str, act: Callable[[], object]) -> None:
    """Repeat ``act`` until each process of the service has logged this event, and then go on.

    Each process has to log it once.
    """

    def all_have() -> bool:
        act()
        return logged(service, name) >= PROCESSES

    wait_for(all_have, DEADLINE)
    for _ in range(4 * PROCESSES):
        act()
    assert logged(service, name) == PROCESSES


def begin(lab: Lab, url: str) -> Service:
    """Start a service, wait until each process has opened the file, and deliver one event."""
    service = start(lab, url)
    processes: set[int] = set()

    def all_have() -> bool:
        service.is_ready()
        processes.update(filter(has_open, children_of(service.process.pid)))
        return len(processes) == PROCESSES

    wait_for(all_have, DEADLINE)
    assert service.deliver("evt_before").brief == ACCEPTED
    return service


def has_open(pid: int) -> bool:
    """Return True if the process has a log of SQLite's open."""
    folder = Path(f"/proc/{pid}/fd")
    with contextlib.suppress(OSError):  # it may close one during this
        return any("-wal" in os.readlink(each) for each in folder.iterdir())  # noqa: PTH115 - a text
    return False


def accept(service: Service, event_id: str) -> None:
    """Deliver an event until it is accepted. Each process refuses once after a change."""
    wait_for(lambda: service.deliver(event_id).brief == ACCEPTED, DEADLINE)


def kept(url: str) -> set[str]:
    """Return the events in the database at the path, as another process reads them."""
    with contextlib.closing(Inbox(url, lease_seconds=1)) as inbox:
        return {event.id for event in inbox.administration.select(EventFilter(), 1000)}


def is_sound(file: Path) -> bool:
    """Return True if SQLite finds the file intact."""
    with contextlib.closing(sqlite.driver.connect(file)) as connection:
        return list(connection.execute("PRAGMA integrity_check")) == [("ok",)]


def copy(file: Path) -> Path:
    """Return a copy of the file with its present rows, in other pages."""
    made = file.parent / "copy"
    with contextlib.closing(sqlite.driver.connect(file)) as connection:
        connection.execute("VACUUM INTO ?", [str(made)])
    return made


def logged(service: Service, name: str) -> int:
    """Return how many lines of the log have this name."""
    return service.log.count(f'"event": "{name}"')


def logs_set_aside(file: Path) -> list[Path]:
    """Return the logs that were kept under another name."""
    return list(file.parent.glob("*-wal.*"))


@pytest.mark.parametrize("removed", ["file", "folder"])
def test_missing_file_is_not_written_to(
    lab: Lab, sqlite_url: str, file: Path, removed: str
) -> None:
    """Without its file the service answers 503 and creates none. It goes on when one is there."""
    service = begin(lab, sqlite_url)
    saved = Path(shutil.move(copy(file), lab.package))

    if removed == "file":
        file.unlink()
    else:
        shutil.rmtree(file.parent)
    answers = {service.deliver(event_id).brief for event_id in EVENTS}
    repeat_until_logged(
        service, "inbox_file_missing", lambda: answers.add(service.deliver("evt_more").brief)
    )

    assert answers == {MISSING}
    assert service.readiness().status == 503
    assert not file.exists()
    file.parent.mkdir(exist_ok=True)
    saved.rename(file)
    for event_id in EVENTS:
        accept(service, event_id)
    kill(service)
    assert kept(sqlite_url) == {"evt_before", *EVENTS}
    assert is_sound(file)


def test_replaced_file_is_changed_over_to(lab: Lab, sqlite_url: str, file: Path) -> None:
    """After `mv copy file` no event that is only in the old file is answered 2xx."""
    service = begin(lab, sqlite_url)
    saved = copy(file)
    assert service.deliver("evt_in_old").brief == ACCEPTED

    saved.replace(file)
    answers = {event_id: service.deliver(event_id).brief for event_id in EVENTS}
    repeat_until_logged(service, "inbox_file_replaced", service.readiness)

    assert set(answers.values()) == {ACCEPTED, REPLACED}
    (log,) = logs_set_aside(file)
    assert b"evt_in_old" in log.read_bytes()
    kill(service)
    acknowledged = {event_id for event_id, brief in answers.items() if brief == ACCEPTED}
    assert acknowledged
    assert kept(sqlite_url) == {"evt_before", *acknowledged}
    assert is_sound(file)


def test_log_of_a_replaced_file_is_not_replayed_at_start(
    lab: Lab, sqlite_url: str, file: Path
) -> None:
    """The file that replaces the one of a killed service keeps its own rows."""
    killed = start(lab, sqlite_url)
    assert killed.deliver("evt_before").brief == ACCEPTED
    saved = copy(file)
    for event_id in EVENTS:
        assert killed.deliver(event_id).brief == ACCEPTED
    kill(killed)
    saved.replace(file)

    service = start(lab, sqlite_url)
    assert service.deliver("evt_after").brief == ACCEPTED

    assert kept(sqlite_url) == {"evt_before", "evt_after"}
    assert is_sound(file)
    (log,) = logs_set_aside(file)
    assert b"evt_7" in log.read_bytes()
    assert logged(service, "inbox_log_set_aside") == 1


def test_log_that_came_with_its_file_is_replayed(lab: Lab, sqlite_url: str, file: Path) -> None:
    """A copy of the file with its log is complete."""
    killed = start(lab, sqlite_url)
    assert killed.deliver("evt_before").brief == ACCEPTED
    kill(killed)
    for path in (file, Path(f"{file}-wal")):
        shutil.copy(path, f"{path}.copy")
        Path(f"{path}.copy").replace(path)

    service = start(lab, sqlite_url)

    assert service.deliver("evt_after").brief == ACCEPTED
    assert kept(sqlite_url) == {"evt_before", "evt_after"}
    assert logs_set_aside(file) == []


def test_replacing_file_is_migrated(lab: Lab, sqlite_url: str, file: Path) -> None:
    """A file that replaces the present one while the service runs is migrated."""
    service = begin(lab, sqlite_url)
    empty = file.parent / "empty"
    empty.touch()

    empty.replace(file)
    accept(service, "evt_after")

    assert kept(sqlite_url) == {"evt_after"}


def test_restart_makes_a_missing_file(lab: Lab, sqlite_url: str, file: Path) -> None:
    """A service that starts without its file creates an empty inbox, and logs that."""
    first = start(lab, sqlite_url)
    assert first.deliver("evt_before").brief == ACCEPTED
    first.terminate()
    first.wait()
    file.unlink()

    service = start(lab, sqlite_url)

    assert service.deliver("evt_after").brief == ACCEPTED
    assert logged(service, "inbox_file_made_anew") == 1
    assert kept(sqlite_url) == {"evt_after"}


@pytest.mark.parametrize("lost", ["file", "folder"])
def test_command_makes_no_file_where_one_was(
    lab: Lab, sqlite_url: str, file: Path, lost: str
) -> None:
    """A command that reads the inbox does not create an empty file."""
    service = start(lab, sqlite_url)
    assert service.deliver("evt_before").brief == ACCEPTED
    if lost == "file":
        file.unlink()
    else:
        shutil.rmtree(file.parent)

    command = subprocess.run(
        [sys.executable, "-m", "flask", "events", "list"],
        cwd=ROOT,
        env=lab.environment(DATABASE_URL=sqlite_url),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )

    assert command.returncode == 1
    assert "Error: The inbox's file is missing: " in command.stderr
    assert "put the file back, or restart the service" in command.stderr
    assert not file.exists()
    assert service.deliver("evt_after").brief == MISSING


def test_removed_log_loses_nothing(lab: Lab, sqlite_url: str, file: Path) -> None:
    """The content of the removed log is moved to the file, and a new log is begun."""
    service = begin(lab, sqlite_url)
    for event_id in EVENTS:
        assert service.deliver(event_id).brief == ACCEPTED

    Path(f"{file}-wal").unlink()
    assert service.deliver("evt_after").brief == LOST_LOG
    accept(service, "evt_after")
    accept(service, "evt_last")

    assert 1 <= logged(service, "inbox_log_missing") <= PROCESSES
    kill(service)
    assert kept(sqlite_url) == {"evt_before", *EVENTS, "evt_after", "evt_last"}
    assert is_sound(file)


def test_removed_log_is_saved_by_its_process(lab: Lab, sqlite_url: str, file: Path) -> None:
    """Another process begins no new log before the old one is in the file."""
    service = begin(lab, sqlite_url)
    workers = children_of(service.process.pid)
    for pid in workers:  # they check by themselves too, and would save it
        stop_process(pid, sqlite_url)
    Path(f"{file}-wal").unlink()
    with contextlib.closing(Inbox(sqlite_url, lease_seconds=1)) as inbox:
        with pytest.raises(InboxUnavailable) as raised:
            inbox.check()
        assert raised.value.message == LOST_LOG[1]
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
        accept(service, "evt_after")
        inbox.check()

    assert kept(sqlite_url) == {"evt_before", "evt_after"}
    kill(service)
    assert is_sound(file)


def test_removed_index_needs_a_restart(lab: Lab, sqlite_url: str, file: Path) -> None:
    """A process that has the removed index in its memory writes nothing."""
    service = begin(lab, sqlite_url)
    for event_id in EVENTS:
        assert service.deliver(event_id).brief == ACCEPTED

    for suffix in ("-wal", "-shm"):
        Path(f"{file}{suffix}").unlink()
    answers: set[tuple[int, str]] = set()
    repeat_until_logged(
        service, "inbox_index_missing", lambda: answers.add(service.deliver("evt_after").brief)
    )

    assert answers == {LOST_INDEX}
    kill(service)
    again = start(lab, sqlite_url)
    assert again.deliver("evt_after").brief == ACCEPTED
    assert kept(sqlite_url) == {"evt_before", *EVENTS, "evt_after"}
    assert is_sound(file)


def test_callback_is_finished_in_the_file_that_is_there(
    lab: Lab, sqlite_url: str, file: Path
) -> None:
    """Inline mode handles no event without the file, and each event once afterwards."""
    service = lab.start(sqlite_url)
    running, release, _ = lab.hold(service.deliver, "evt_running")
    away = file.rename(file.with_name("away"))

    assert service.deliver("evt_during").brief == MISSING
    release()
    assert running.result(DEADLINE).status == 503
    away.rename(file)

    wait_for(lambda: service.deliver("evt_during").brief == HANDLED, DEADLINE)
    wait_for(lambda: service.deliver("evt_running").brief == DUPLICATE, DEADLINE)
    assert lab.account("evt_running") == lab.account("evt_during") == [("start", 1), ("end", 1)]


#: Runs gunicorn with the mask for new files that is the first argument.
WITH_UMASK = """
import os, sys
os.umask(int(sys.argv[1], 8))
os.execv(sys.executable, [sys.executable, "-m", "gunicorn", *sys.argv[2:]])
"""


def modes(file: Path) -> dict[str, int]:
    """Return the rights to each file of the inbox and to its folder."""
    paths = [file.parent, *file.parent.iterdir()]
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in paths}


@pytest.mark.parametrize("umask", ["022", "000"])
def test_files_are_for_their_user_alone(lab: Lab, sqlite_url: str, file: Path, umask: str) -> None:
    """No other user can read an event or hold the lock, with any umask and in old files too."""
    service = lab.start(sqlite_url, launcher=("-c", WITH_UMASK, umask))
    assert service.deliver("evt_1").brief == HANDLED
    files = [file, *(Path(f"{file}{suffix}") for suffix in ("-wal", "-shm", ".lock"))]
    private = {path.name: 0o600 for path in files}
    assert modes(file) == {"var": 0o700, **private}

    kill(service)
    file.parent.chmod(0o755)
    for path in files:
        path.chmod(0o666)
    again = lab.start(sqlite_url, launcher=("-c", WITH_UMASK, umask))
    assert again.deliver("evt_2").brief == HANDLED

    assert modes(file) == {"var": 0o755, **private}  # the folder may be shared


def test_killed_postgresql_keeps_what_was_acknowledged(
    lab: Lab, own_postgresql: Postgresql
) -> None:
    """An event that was answered 2xx is on the disk, even if the database's default is off."""
    own_postgresql.set("wal_writer_delay", "10s")
    name = sa.make_url(own_postgresql.url).database
    raw_sql.execute(own_postgresql.url, f"ALTER DATABASE {name} SET synchronous_commit = off")
    service = start(lab, own_postgresql.url)
    wait_for(service.is_ready, DEADLINE)
    events = [f"evt_{number}" for number in range(40)]

    answers = [service.deliver(event_id).brief for event_id in events]
    own_postgresql.kill()
    own_postgresql.start()

    assert answers == [ACCEPTED] * len(events)
    assert kept(own_postgresql.url) == set(events)
