"""How the inbox reaches its database."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from app.errors import InboxUnavailable
from app.inbox import Accepted, Failure, Inbox, NewEvent, Outcome
from app.inbox.engine import sqlite
from app.inbox.engine.database import Database
from app.inbox.engine.file_lock import FileLock
from app.inbox.engine.sqlite import SqliteWriter
from app.inbox.sql.batch import FORMS
from app.inbox.sql.settling import FINISH
from tests.support import raw_sql
from tests.support.raw_sql import trace, writer_of
from tests.support.waiting import wait_for

EVENT = NewEvent("evt_1", "v1.customer.created", livemode=False, context=None, body=b"{}")


@pytest.mark.parametrize(
    ("version", "mode"),
    [
        ((3, 40, 1), "TRUNCATE"),
        ((3, 44, 5), "TRUNCATE"),
        ((3, 44, 6), "WAL"),
        ((3, 45, 0), "TRUNCATE"),
        ((3, 46, 1), "TRUNCATE"),
        ((3, 50, 6), "TRUNCATE"),
        ((3, 50, 7), "WAL"),
        ((3, 51, 2), "TRUNCATE"),
        ((3, 51, 3), "WAL"),
        ((4, 0, 0), "WAL"),
    ],
)
def test_wal_is_used_only_where_it_cannot_lose_commits(version: tuple[int, ...], mode: str) -> None:
    """The WAL-reset bug is in all versions before 3.51.3 but two backports."""
    assert sqlite.journal_mode(version) == mode


def pragma(inbox: Inbox, name: str) -> object:
    """Return what SQLite says of one of its settings, on a connection of the inbox."""
    rows = inbox._store.database.read(sa.text(f"PRAGMA {name}"), {})  # noqa: SLF001 - no other way
    return rows[0][0]


def test_sqlite_runs_in_wal_with_the_correction(sqlite_url: str) -> None:
    """The package pysqlite3 brings a SQLite in which WAL is safe."""
    inbox = Inbox(sqlite_url, lease_seconds=30)
    inbox.check()

    assert pragma(inbox, "journal_mode") == "wal"
    assert pragma(inbox, "synchronous") == 1  # NORMAL: see the comment in database.py
    assert pragma(inbox, "busy_timeout") == sqlite.BUSY_TIMEOUT_MS
    inbox.close()


def test_affected_sqlite_is_used_without_wal_and_warned_about_once(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a machine without a corrected SQLite the service is slower, not unsafe."""
    monkeypatch.setattr(sqlite, "VERSION", (3, 40, 1))
    inbox = Inbox(sqlite_url, lease_seconds=30)

    inbox.migrate()
    inbox.migrate()
    assert inbox.deliveries.record_and_claim(EVENT).claim is not None

    assert pragma(inbox, "journal_mode") == "truncate"
    assert pragma(inbox, "synchronous") == 2  # FULL
    printed = capsys.readouterr()
    assert (printed.out + printed.err).count("sqlite_without_wal") == 1
    inbox.close()


def test_without_the_wheel_pythons_own_sqlite_is_used() -> None:
    """Where there is no wheel of pysqlite3 the service starts all the same."""
    code = (
        "import sys; sys.modules['pysqlite3'] = None\n"
        "from app.inbox.engine import sqlite\n"
        "import sqlite3; print(sqlite.driver is sqlite3)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "True\n"


def test_folder_of_the_database_is_made(tmp_path: Path) -> None:
    """A fresh volume is empty: the folder need not be there."""
    inbox = Inbox(f"sqlite:///{tmp_path}/a/b/inbox.sqlite3", lease_seconds=30)
    inbox.check()
    inbox.close()

    assert (tmp_path / "a" / "b" / "inbox.sqlite3").is_file()


def test_folder_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    """A path through a file cannot be: 503, with the reason for the log."""
    (tmp_path / "file").touch()
    inbox = Inbox(f"sqlite:///{tmp_path}/file/inbox.sqlite3", lease_seconds=30)

    with pytest.raises(InboxUnavailable, match="the inbox is not available") as raised:
        inbox.check()
    assert "Error: " in raised.value.reason


def test_broken_file_is_unavailable(tmp_path: Path) -> None:
    """A file that is no database is said so, and is not touched."""
    file = tmp_path / "inbox.sqlite3"
    file.write_bytes(b"no database" * 1000)
    inbox = Inbox(f"sqlite:///{file}", lease_seconds=30)

    with pytest.raises(InboxUnavailable) as raised:
        inbox.check()
    assert raised.value.reason == "DatabaseError: file is not a database"
    assert file.read_bytes() == b"no database" * 1000


def test_failed_statement_does_not_spoil_the_next(sqlite_url: str) -> None:
    """The connection that failed is dropped, for writing and for reading."""
    base = Database(sqlite_url, {})
    Inbox(sqlite_url, lease_seconds=30).migrate()
    wrong = sa.text("SELECT * FROM nothing")

    for attempt in (base.execute, base.read):
        with pytest.raises(InboxUnavailable, match="the inbox is not available"):
            attempt(wrong, {})
        assert base.read(sa.text("SELECT 1"), {})
    base.close()


def test_connection_that_is_lost_twice_is_given_up(postgresql_url: str) -> None:
    """A statement that loses its connection is sent once more: 503 then, and no endless loop."""
    base = Database(postgresql_url, {})
    suicide = sa.text("SELECT pg_terminate_backend(pg_backend_pid())")

    with pytest.raises(InboxUnavailable) as raised:
        base.execute(suicide, {})
    assert "terminating connection" in raised.value.reason
    assert base.execute(sa.text("SELECT 1"), {}) == (1,)
    base.close()


def test_connection_that_was_lost_meanwhile_does_not_fail_a_read(postgresql_url: str) -> None:
    """A server that was restarted is asked on a new connection, once, and not for ever."""
    base = Database(postgresql_url, {})
    one = sa.text("SELECT 1")
    mine = base.read(sa.text("SELECT pg_backend_pid()"), {})[0][0]
    base.execute(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": mine})

    assert base.read(one, {})[0][0] == 1
    with pytest.raises(InboxUnavailable) as raised:
        base.read(sa.text("SELECT pg_terminate_backend(pg_backend_pid())"), {})
    assert "terminating connection" in raised.value.reason
    assert base.read(one, {})[0][0] == 1
    base.close()


def test_threads_that_ended_leave_no_connection(postgresql_url: str) -> None:
    """Each thread has a connection of its own, which another can have when it has ended."""
    inbox = Inbox(postgresql_url, lease_seconds=30)
    inbox.check()
    for _ in range(5):
        thread = threading.Thread(target=inbox.check)
        thread.start()
        thread.join(30)

    count = sa.text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
    # This thread's, the one that the five used in turn, and the one that counts.
    assert inbox._store.database.read(count, {})[0][0] <= 3  # noqa: SLF001 - no other way
    inbox.close()


def test_statements_that_wait_are_written_together(sqlite_url: str) -> None:
    """While one thread writes others queue up, and the next writes for all in one transaction."""
    inbox = Inbox(sqlite_url, lease_seconds=30)
    inbox.migrate()
    writer = writer_of(inbox)
    results: list[object] = []
    threads = [
        threading.Thread(
            target=lambda n=n: results.append(
                inbox.deliveries.record_and_claim(numbered(n)).attempt
            )
        )
        for n in range(10)
    ]
    with writer.turn():
        for thread in threads:
            thread.start()
        wait_for(lambda: len(writer._waiting) == 11)  # noqa: SLF001 - to hold its turn
    for thread in threads:
        thread.join(30)

    assert results == [1] * 10
    assert len(inbox.administration.latest(100)) == 10
    inbox.close()


def test_one_that_cannot_be_written_does_not_spoil_the_others(sqlite_url: str) -> None:
    """Of statements written together, the wrong one fails alone and the others are kept."""
    inbox = Inbox(sqlite_url, lease_seconds=30)
    inbox.migrate()
    writer = writer_of(inbox)
    wrong = sa.text("INSERT INTO events (id) VALUES ('evt_wrong')")
    refused: list[InboxUnavailable] = []

    def write_wrong() -> None:
        with pytest.raises(InboxUnavailable) as raised:
            inbox._store.database.execute(wrong, {})  # noqa: SLF001 - to hold its turn
        refused.append(raised.value)

    threads = [
        threading.Thread(target=inbox.deliveries.record_and_claim, args=[numbered(n)])
        for n in range(3)
    ]
    threads.insert(1, threading.Thread(target=write_wrong))
    with writer.turn():
        for thread in threads:
            thread.start()
        wait_for(lambda: len(writer._waiting) == 5)  # noqa: SLF001 - to hold its turn
    for thread in threads:
        thread.join(30)

    assert ["NOT NULL constraint failed" in error.reason for error in refused] == [True]
    assert {event.id for event in inbox.administration.latest(100)} == {"evt_0", "evt_1", "evt_2"}
    inbox.close()


def test_turn_that_does_not_come_is_unavailable(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A delivery is answered 503 rather than kept for ever."""
    monkeypatch.setattr(sqlite, "TURN_TIMEOUT", 0.05)
    inbox = Inbox(sqlite_url, lease_seconds=30)
    inbox.check()
    writer = writer_of(inbox)

    with writer.turn(), pytest.raises(InboxUnavailable) as raised:
        inbox.deliveries.record_and_claim(EVENT)
    assert raised.value.reason == "inbox_locked"
    inbox.check()
    assert (
        inbox.administration.find(EVENT.id) is None
    )  # what was answered 503 is not claimed by nobody later
    inbox.close()


def test_statement_that_was_written_at_the_last_moment_is_not_refused(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A statement that another thread has written when the time is over was written."""
    monkeypatch.setattr(sqlite, "TURN_TIMEOUT", 1)
    inbox = Inbox(sqlite_url, lease_seconds=30)
    inbox.check()
    writer = writer_of(inbox)
    attempts: list[int] = []
    thread = threading.Thread(
        target=lambda: attempts.append(inbox.deliveries.record_and_claim(EVENT).attempt)
    )

    with writer.turn():
        thread.start()
        wait_for(lambda: len(writer._waiting) == 2)  # noqa: SLF001 - to hold its turn
        writer._write([writer._waiting[1]])  # noqa: SLF001 - to write for another thread
        thread.join(30)

    assert attempts == [1]
    inbox.close()


def test_other_tools_lock_leaves_nothing_half_done(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a shell holds SQLite's own lock: 503 for all that wait, and none is written later."""
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_MS", 50)
    inbox = Inbox(sqlite_url, lease_seconds=30)
    inbox.check()
    writer = writer_of(inbox)
    shell = sqlite.driver.connect(tmp_path / "var" / "inbox.sqlite3", isolation_level=None)
    shell.execute("BEGIN IMMEDIATE")
    refused: list[str] = []

    def deliver(number: int) -> None:
        with pytest.raises(InboxUnavailable) as raised:
            inbox.deliveries.record_and_claim(numbered(number))
        refused.append(raised.value.reason)

    threads = [threading.Thread(target=deliver, args=[n]) for n in range(3)]
    with writer.turn():
        for thread in threads:
            thread.start()
        wait_for(lambda: len(writer._waiting) == 4)  # noqa: SLF001 - to hold its turn
    for thread in threads:
        thread.join(30)
    shell.execute("ROLLBACK")
    shell.close()

    assert refused == ["OperationalError: database is locked"] * 3
    inbox.check()
    assert inbox.administration.latest(10) == []
    inbox.close()


class Late:
    """A lock that is had in the very moment in which the time for it is over."""

    def __init__(self, lock: Any) -> None:
        """Take the lock."""
        self._lock = lock
        self.release = lock.release

    def acquire(self, timeout: float = -1) -> bool:
        """Say that the time was over, when there was one."""
        self._lock.acquire()
        if timeout < 0:
            return True
        self._lock.release()
        return False


def test_thread_that_is_to_lead_at_the_last_moment_leads(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It writes what waits, and nothing is let go twice."""

    class LateJob(sqlite._Job):  # noqa: SLF001 - no other way to be there in that moment
        def __init__(self, *args: Any, **named: Any) -> None:
            super().__init__(*args, **named)
            self.turn: Any = Late(self.turn)

    monkeypatch.setattr(sqlite, "_Job", LateJob)
    inbox = Inbox(sqlite_url, lease_seconds=30)
    inbox.check()

    accepted = together(
        inbox, *[partial(inbox.deliveries.record_and_claim, numbered(each)) for each in range(3)]
    )

    assert [each.claim is not None for each in accepted] == [True] * 3
    inbox.check()
    inbox.close()


@pytest.mark.parametrize("leads", [False, True])
def test_interrupt_of_a_thread_that_waits_leaves_the_others_alone(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, *, leads: bool
) -> None:
    """Ctrl-C while it waits, and in the moment in which it is to lead."""
    inbox = Inbox(sqlite_url, lease_seconds=30)
    inbox.check()
    writer = writer_of(inbox)

    class Interrupted(Late):
        def acquire(self, timeout: float = -1) -> bool:
            if timeout >= 0:
                if leads:
                    super().acquire()
                    self.release()
                raise KeyboardInterrupt
            return super().acquire()

    class InterruptedJob(sqlite._Job):  # noqa: SLF001 - no other way to be there in that moment
        def __init__(self, *args: Any, **named: Any) -> None:
            super().__init__(*args, **named)
            self.turn: Any = Interrupted(self.turn)

    def interrupted() -> str:
        with pytest.raises(KeyboardInterrupt):
            inbox.deliveries.record_and_claim(numbered(1))
        return "interrupted"

    with ThreadPoolExecutor(2) as pool:
        with writer.turn():
            monkeypatch.setattr(sqlite, "_Job", InterruptedJob)
            first = pool.submit(interrupted)
            if leads:
                wait_for(partial(has_waiting, writer, 2))
            else:
                assert first.result(30) == "interrupted"
            monkeypatch.undo()
            second = pool.submit(inbox.deliveries.record_and_claim, numbered(2))
            wait_for(partial(has_waiting, writer, 3 if leads else 2))
        assert first.result(30) == "interrupted"
        assert second.result(30).claim is not None

    inbox.check()
    assert [event.id for event in inbox.administration.latest(10)] == ["evt_2"]
    inbox.close()


def test_lock_of_another_tool_is_waited_for_once(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can come between two statements that are written one by one: the rest is not tried."""
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_MS", 50)
    inbox = Inbox(sqlite_url, lease_seconds=30)
    inbox.check()
    file = tmp_path / "var" / "inbox.sqlite3"
    shell = sqlite.driver.connect(file, isolation_level=None, check_same_thread=False)
    tried: list[str] = []
    write_one = SqliteWriter._write_one  # noqa: SLF001 - no other way to be there in that moment

    def write_and_lock(writer: SqliteWriter, connection: Any, job: Any) -> None:
        if tried.count("evt_0") == 2 and not shell.in_transaction:
            shell.execute("BEGIN IMMEDIATE")  # when the first one has been written alone
        tried.append(job.parameters.get("id", "wrong"))
        write_one(writer, connection, job)

    monkeypatch.setattr(SqliteWriter, "_write_one", write_and_lock)
    wrong = sa.text("INSERT INTO events (id) VALUES ('evt_wrong')")

    def refusal(act: Callable[[], object]) -> str:
        try:
            act()
        except InboxUnavailable as error:
            return error.reason
        return "written"

    said = together(
        inbox,
        partial(refusal, partial(inbox.deliveries.record_and_claim, numbered(0))),
        partial(refusal, lambda: inbox._store.database.execute(wrong, {})),  # noqa: SLF001 - no other way
        partial(refusal, partial(inbox.deliveries.record_and_claim, numbered(1))),
        partial(refusal, partial(inbox.deliveries.record_and_claim, numbered(2))),
    )
    monkeypatch.undo()
    shell.execute("ROLLBACK")
    shell.close()

    assert said == ["written", *["OperationalError: database is locked"] * 3]
    assert tried == ["wrong", "evt_0", "wrong", "evt_0", "wrong"]
    inbox.check()
    assert [event.id for event in inbox.administration.latest(10)] == ["evt_0"]
    inbox.close()


def test_what_is_answered_2xx_without_a_success_is_on_the_disk(sqlite_url: str) -> None:
    """An event that is set aside or buried has nothing but its row: that commit is synced."""
    inbox = Inbox(sqlite_url, lease_seconds=30)
    claims = [inbox.deliveries.record_and_claim(numbered(n)).claim for n in range(2)]
    said = trace(inbox)

    def synced(act: Callable[[], object]) -> list[str]:
        said.clear()
        act()
        # A trigger is said as a comment, and its statement once more when it has ended.
        words = [each.split() for each in dict.fromkeys(said) if not each.startswith("--")]
        return [each[-1] if each[0] == "PRAGMA" else each[0] for each in words]

    first, second = claims
    assert first is not None
    assert second is not None
    aside, recorded = numbered(3), numbered(4)
    assert synced(lambda: inbox.claims.finish(first)) == ["UPDATE"]
    assert synced(lambda: inbox.claims.mark_dead(second, "gave_up", Failure("no plan"))) == [
        "FULL",
        "UPDATE",
    ]
    assert synced(lambda: inbox.deliveries.record_and_claim(numbered(5))) == ["NORMAL", "INSERT"]
    assert synced(lambda: inbox.deliveries.record_skipped(aside, Outcome.WRONG_MODE)) == [
        "FULL",
        "INSERT",
    ]
    assert synced(lambda: inbox.deliveries.enqueue(recorded)) == ["INSERT"]
    assert synced(inbox.check) == ["NORMAL", "INSERT"]
    inbox.close()


def has_waiting(writer: SqliteWriter, number: int) -> bool:
    """Whether so many threads have come, the one whose turn it is among them."""
    return len(writer._waiting) == number  # noqa: SLF001 - no other way


def together(inbox: Inbox, *acts: Callable[[], Any]) -> list[Any]:
    """Return what came of the ``acts``, when all of them wait for one another."""
    writer = writer_of(inbox)
    with ThreadPoolExecutor(len(acts)) as pool:
        with writer.turn():
            results = []
            for number, act in enumerate(acts, start=2):
                results.append(pool.submit(act))
                wait_for(partial(has_waiting, writer, number))
        return [result.result(30) for result in results]


def test_who_is_alone_does_not_delay_its_commit(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A delivery while no other is under way is written at once, and so is one that came last."""
    monkeypatch.setattr(sqlite, "COMMIT_DELAY", 60)
    inbox = Inbox(sqlite_url, lease_seconds=30)
    lines = trace(inbox)

    with inbox.deliveries.group_commit():
        thread = threading.Thread(target=inbox.deliveries.record_and_claim, args=[numbered(1)])
        inbox.deliveries.record_and_claim(numbered(0))
    inbox.deliveries.record_and_claim(numbered(2))
    thread.start()  # no other is under way any more
    thread.join(30)

    assert words(lines) == ["INSERT", "INSERT", "INSERT"]
    inbox.close()


def test_who_is_about_to_write_is_waited_for(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deliveries that are under way at once are written in one transaction."""
    monkeypatch.setattr(sqlite, "COMMIT_DELAY", 60)
    inbox = Inbox(sqlite_url, lease_seconds=30)
    lines = trace(inbox)
    writer = writer_of(inbox)
    here = threading.Barrier(3)

    def deliver(number: int) -> None:
        with inbox.deliveries.group_commit():
            here.wait(30)
            wait_for(partial(has_waiting, writer, number))
            inbox.deliveries.record_and_claim(numbered(number))

    with ThreadPoolExecutor(3) as pool:
        for result in [pool.submit(deliver, number) for number in range(3)]:
            result.result(30)

    assert words(lines) == ["INSERT"]
    assert len(inbox.administration.latest(10)) == 3
    inbox.close()


def test_who_does_not_come_is_not_waited_for(sqlite_url: str) -> None:
    """A long callback, which writes nothing, holds others up for a moment only."""
    inbox = Inbox(sqlite_url, lease_seconds=30)
    inbox.migrate()
    runs, ends = threading.Event(), threading.Event()

    def run() -> None:
        with inbox.deliveries.group_commit():
            runs.set()
            ends.wait(30)

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run)
        assert runs.wait(30)
        with inbox.deliveries.group_commit():
            assert inbox.deliveries.record_and_claim(numbered(0)).claim is not None
        writer = writer_of(inbox)
        assert writer._delay is None  # noqa: SLF001 - to see that nobody waits
        ends.set()
        running.result(30)
    inbox.close()


def test_child_has_none_of_its_parents_threads(sqlite_url: str) -> None:
    """After a fork only one thread is left."""
    inbox = Inbox(sqlite_url, lease_seconds=30)
    with inbox.deliveries.group_commit():
        child = os.fork()
        if child == 0:
            os._exit(len(inbox._store.database.siblings))  # noqa: SLF001 - no other way

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def words(statements: list[str]) -> list[str]:
    """Return how each of the ``statements`` begins."""
    return [each.split()[0] for each in statements]


def test_known_event_among_new_ones_is_told_from_them(sqlite_url: str) -> None:
    """Several are recorded at once: each is counted once, and those known before are not claimed.

    One of the new ones comes twice.
    """
    inbox = Inbox(sqlite_url, lease_seconds=30)
    inbox.deliveries.record_and_claim(numbered(1))
    arrived = [0, 1, 2, 2, 3]

    accepted = together(
        inbox, *[partial(inbox.deliveries.record_and_claim, numbered(each)) for each in arrived]
    )

    assert [each.claim is not None for each in accepted] == [True, False, True, False, True]
    assert [each.state for each in accepted] == ["running"] * 5
    deliveries = {event.id: event.deliveries for event in inbox.administration.latest(10)}
    assert deliveries == {"evt_0": 1, "evt_1": 2, "evt_2": 2, "evt_3": 1}
    inbox.close()


def test_many_of_which_one_is_known_are_one_transaction(sqlite_url: str) -> None:
    """Redeliveries in a burst do not make a commit of each event beside them."""
    inbox = Inbox(sqlite_url, lease_seconds=30)
    inbox.deliveries.enqueue(numbered(1))
    said = trace(inbox)

    together(inbox, *[partial(inbox.deliveries.enqueue, numbered(each)) for each in range(3)])

    assert words(said)[-5:] == ["BEGIN", "INSERT", "INSERT", "INSERT", "COMMIT"]
    inbox.close()


def test_what_is_said_of_many_is_what_is_said_of_one(sqlite_url: str) -> None:
    """An event that is recorded with others is answered as one that is recorded alone."""
    inbox = Inbox(sqlite_url, lease_seconds=30)
    events = [replace(numbered(each), context="acct_1", body=b"{%d}" % each) for each in range(6)]
    alone = inbox.deliveries.record_and_claim(events[0])
    assert alone.claim is not None

    accepted = together(
        inbox, *[partial(inbox.deliveries.record_and_claim, event) for event in events[1:4]]
    )
    recorded = together(inbox, *[partial(inbox.deliveries.enqueue, event) for event in events[4:]])

    for answer, event in zip(accepted, events[1:4], strict=True):
        claim = replace(alone.claim, event_id=event.id, body=event.body, token=answer.claim.token)
        assert answer == replace(alone, claim=claim)
        found, first = inbox.administration.find(event.id), inbox.administration.find("evt_0")
        assert found is not None
        assert first is not None
        times = {"received_at", "due_at", "claimed_at", "lease_until"}
        names = {*times, "id", "body", "claimed_by", "concurrency_key"}
        assert {
            name for name, value in asdict(first).items() if asdict(found)[name] != value
        } <= names
        assert (found.body, found.claimed_by) == (event.body, claim.token)
    assert recorded == [Accepted("pending", None, 0, None)] * 2
    inbox.close()


def test_lost_claim_among_many_that_succeeded_is_told_from_them(sqlite_url: str) -> None:
    """Several are finished at once: who has lost the claim is told so, and nobody else."""
    inbox = Inbox(sqlite_url, lease_seconds=-1)
    lost, first, second = (
        inbox.deliveries.record_and_claim(numbered(each)).claim for each in range(3)
    )
    assert lost is not None
    assert first is not None
    assert second is not None
    raw_sql.abandon(inbox)
    taken = inbox.deliveries.record_and_claim(numbered(0)).claim
    assert taken is not None

    finished = together(
        inbox, *[partial(inbox.claims.finish, each) for each in (first, lost, second)]
    )

    assert finished == [True, False, True]
    assert together(inbox, partial(inbox.claims.finish, first)) == [
        True
    ]  # its answer may have been lost
    states = {event.id: (event.state, event.outcome) for event in inbox.administration.latest(10)}
    done = ("done", "handled")
    assert states == {"evt_0": ("running", None), "evt_1": done, "evt_2": done}
    assert together(inbox, partial(inbox.claims.finish, taken)) == [True]
    inbox.close()


def test_statements_of_all_kinds_are_written_together(sqlite_url: str) -> None:
    """What is recorded, finished and put aside at one time is one transaction."""
    inbox = Inbox(sqlite_url, lease_seconds=30)
    claim = inbox.deliveries.record_and_claim(numbered(0)).claim
    assert claim is not None
    said = trace(inbox)

    together(
        inbox,
        partial(inbox.deliveries.record_and_claim, numbered(1)),
        partial(inbox.claims.finish, claim),
        partial(inbox.deliveries.record_and_claim, numbered(2)),
        partial(inbox.deliveries.enqueue, numbered(3)),
        partial(inbox.deliveries.record_skipped, numbered(4), Outcome.WRONG_MODE),
    )

    words = [each.split()[0] for each in said if not each.startswith("--")]
    begin, end = words.index("BEGIN"), words.index("COMMIT")
    # Both that were accepted are one of the three.
    assert sorted(words[begin + 1 : end]) == ["INSERT"] * 3 + ["UPDATE"]
    states = {
        event.id: (event.state, event.deliveries) for event in inbox.administration.latest(10)
    }
    running, pending, done = (("running", 1), ("pending", 1), ("done", 1))
    assert states == {
        "evt_0": ("done", 1),
        "evt_1": running,
        "evt_2": running,
        "evt_3": pending,
        "evt_4": done,
    }
    inbox.close()


def test_many_are_found_by_their_ids(sqlite_url: str) -> None:
    """Finishing several looks up each, and not all that are there."""
    inbox = Inbox(sqlite_url, lease_seconds=30)
    inbox.migrate()
    many: Any = FORMS[FINISH].make(3)
    sql = str(many.compile(inbox._store.database._get_engine()))  # noqa: SLF001 - to explain it

    with sqlite.driver.connect(inbox._store.database.file) as connection:  # noqa: SLF001 - to explain it
        plan = connection.execute(f"EXPLAIN QUERY PLAN {sql}", ["x"] * 9).fetchall()

    assert ["USING INDEX sqlite_autoindex_events_1 (id=?)" in step[3] for step in plan] == [True]
    inbox.close()


def test_close_does_not_wait_for_ever(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another thread writes, the connection is left to it."""
    inbox = Inbox(sqlite_url, lease_seconds=30)
    inbox.check()
    writer = writer_of(inbox)
    connection = writer._connect()  # noqa: SLF001 - it is to stay open
    monkeypatch.setattr(sqlite, "TURN_TIMEOUT", 0.05)

    with writer.turn():
        writer.close()

    assert connection.execute("SELECT 1").fetchone() == (1,)
    writer.close()
    with pytest.raises(sqlite.driver.ProgrammingError):
        connection.execute("SELECT 1")
    inbox.close()


def test_server_that_was_read_only_for_a_while_is_used_again(postgresql_url: str) -> None:
    """A demoted server keeps its connections open: they are not kept when it refuses to write."""
    inbox = Inbox(postgresql_url, lease_seconds=30)
    inbox.check()
    engine = sa.create_engine(postgresql_url, isolation_level="AUTOCOMMIT")
    name = sa.make_url(postgresql_url).database

    def read_only(value: str) -> None:
        with engine.connect() as connection:
            connection.exec_driver_sql(
                f"ALTER DATABASE {name} SET default_transaction_read_only = {value}"
            )

    read_only("on")
    inbox.close()
    with pytest.raises(InboxUnavailable, match="not available"):
        inbox.check()
    with engine.connect() as connection:
        connection.exec_driver_sql("SET default_transaction_read_only = off")
        connection.exec_driver_sql(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    engine.dispose()

    inbox.check()
    inbox.close()


def test_error_that_quotes_the_row_is_told_without_it(postgresql_url: str) -> None:
    """PostgreSQL says which row a statement would have spoiled, and a row holds a body."""
    inbox = Inbox(postgresql_url, lease_seconds=30)
    inbox.deliveries.record_and_claim(replace(EVENT, context="acct_of_the_row"))
    wrong = sa.text("UPDATE events SET state = 'wrong'")

    with pytest.raises(InboxUnavailable) as raised:
        inbox._store.database.execute(wrong, {})  # noqa: SLF001 - no statement of the inbox fails so

    assert "known_state" in raised.value.reason
    assert "acct_of_the_row" not in raised.value.reason
    inbox.close()


def test_options_of_the_url_are_kept(postgresql_url: str) -> None:
    """What the URL sets for its connections holds beside the time limits of the service."""
    url = sa.make_url(postgresql_url).update_query_dict({"options": "-c work_mem=7MB"})
    inbox = Inbox(url.render_as_string(hide_password=False), lease_seconds=30)
    inbox.check()

    base = inbox._store.database  # noqa: SLF001 - no other way
    names = ("work_mem", "statement_timeout", "lock_timeout")
    shows = [sa.text(f"SHOW {name}") for name in names]
    assert [base.read(show, {})[0][0] for show in shows] == ["7MB", "30s", "1s"]
    assert [base.execute(show, {}) for show in shows] == [("7MB",), ("1200ms",), ("1s",)]
    inbox.close()


def numbered(number: int) -> NewEvent:
    """Return an event of its own."""
    return replace(EVENT, id=f"evt_{number}")


def test_lock_held_elsewhere_is_unavailable_and_then_well(sqlite_url: str, tmp_path: Path) -> None:
    """A process that was stopped with the lock holds the others up for seconds, not for ever."""
    inbox = Inbox(sqlite_url, lease_seconds=30)
    inbox.check()
    other = FileLock(tmp_path / "var" / "inbox.sqlite3.lock")
    writer = writer_of(inbox)
    writer._lock._timeout = 0.05  # noqa: SLF001 - to hold its turn

    with other, pytest.raises(InboxUnavailable) as raised:
        inbox.check()
    assert raised.value.reason == "inbox_locked"
    inbox.check()
    other.close()
    inbox.close()


def test_close_of_an_unused_database_does_nothing(sqlite_url: str) -> None:
    """A command that never looked into the inbox can close it."""
    base = Database(sqlite_url, {})
    base.close()

    assert base.file is not None
    assert not base.file.exists()


def test_connection_is_not_shared_across_a_fork(database_url: str) -> None:
    """A child of a process that used the inbox connects anew, and both go on."""
    inbox = Inbox(database_url, lease_seconds=30)
    inbox.deliveries.record_and_claim(EVENT)
    parents = inbox._store.database._get_writer()  # noqa: SLF001 - the very connection is the point

    child = os.fork()
    if child == 0:
        own = inbox._store.database._get_writer() is not parents  # noqa: SLF001 - to hold its turn
        inbox.check()
        gc.collect()
        os._exit(0 if own else 1)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert inbox._store.database._get_writer() is parents  # noqa: SLF001 - to hold its turn
    inbox.check()
    inbox.close()


def test_errors_do_not_hold_what_was_written(sqlite_url: str) -> None:
    """SQLAlchemy would quote the parameters of a failed statement, and one is the body."""
    inbox = Inbox(sqlite_url, lease_seconds=30)
    inbox.migrate()
    statement = sa.text("INSERT INTO events (id, body) VALUES ('evt_1', :body)")

    with pytest.raises(InboxUnavailable) as raised:
        inbox._store.database.execute(statement, {"body": b"marker"})  # noqa: SLF001 - to hold its turn
    assert "marker" not in str(raised.value.__cause__)
    assert "marker" not in raised.value.reason
    inbox.close()
