"""The group commit: one thread writes for all threads of a process."""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.errors import InboxUnavailable
from app.inbox import Inbox
from app.inbox.engine import group_commit
from app.inbox.engine.sqlite_file import SqliteFile
from app.runtime import threads
from tests.support.waiting import wait_for
from tests.support.writing import EVENT, holding, numbered, together, trace, words, writer_of


def test_waiting_statements_are_one_transaction(sqlite_url: str) -> None:
    """Statements that queue up during a transaction are written together by the next one."""
    inbox = Inbox(sqlite_url, lease_seconds=30)
    statements = trace(inbox)

    accepted = together(
        inbox, *[partial(inbox.deliveries.record_and_claim, numbered(each)) for each in range(10)]
    )

    assert [each.attempt for each in accepted] == [1] * 10
    assert words(statements) == ["INSERT"]
    assert len(inbox.administration.latest(100)) == 10
    inbox.close()


def test_transaction_is_bounded(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """More statements than ``MAX_STATEMENTS`` are several transactions."""
    monkeypatch.setattr(group_commit, "MAX_STATEMENTS", 2)
    inbox = Inbox(sqlite_url, lease_seconds=30)
    statements = trace(inbox)

    together(inbox, *[partial(inbox.deliveries.enqueue, numbered(each)) for each in range(5)])

    assert [each for each in words(statements) if each != "PRAGMA"] == ["INSERT"] * 3
    inbox.close()


def test_statement_that_waits_too_long_is_not_written(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails after ``WRITE_TIMEOUT`` and is not written later: no process would run its claim."""
    inbox = Inbox(sqlite_url, lease_seconds=30)
    inbox.check()
    monkeypatch.setattr(group_commit, "WRITE_TIMEOUT", 0.05)

    with writer_of(inbox).hold_write_lock(), pytest.raises(InboxUnavailable) as raised:
        inbox.deliveries.record_and_claim(EVENT)
    assert raised.value.reason == "inbox_locked"
    monkeypatch.undo()
    inbox.check()
    assert inbox.administration.find(EVENT.id) is None
    inbox.close()


class Text(str):
    """A text that can be weakly referenced. Bytes cannot."""

    __slots__ = ("__weakref__",)


def test_refused_statement_leaves_the_memory(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long outage does not fill the memory with what refused deliveries brought."""
    inbox = Inbox(sqlite_url, lease_seconds=30)
    inbox.check()
    monkeypatch.setattr(group_commit, "WRITE_TIMEOUT", 0.05)
    key = Text("customer cus_1")
    kept = weakref.ref(key)

    with writer_of(inbox).hold_write_lock():
        with pytest.raises(InboxUnavailable):
            inbox.deliveries.enqueue(replace(EVENT, concurrency_key=key))
        del key
        gc.collect()  # the traceback
        assert kept() is None
    monkeypatch.undo()
    inbox.check()
    inbox.close()


class LateLock:
    """A lock that is free in the very moment in which the time to wait for it is over."""

    def __init__(self, lock: Any) -> None:
        """Take the real lock."""
        self._lock = lock
        self.release = lock.release

    def acquire(self, timeout: float) -> bool:  # noqa: ARG002 - it waits until the lock is free
        """Return False, as after a time-out."""
        self._lock.acquire()
        return False


def test_statement_written_at_the_last_moment_succeeds(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A statement that is written when its time is over was written."""

    class LateWrite(group_commit.QueuedWrite):
        def __init__(self, *args: Any, **named: Any) -> None:
            super().__init__(*args, **named)
            self.ended: Any = LateLock(self.ended)

    # No test can be there in that moment.
    monkeypatch.setattr(group_commit, "QueuedWrite", LateWrite)
    inbox = Inbox(sqlite_url, lease_seconds=30)

    assert inbox.deliveries.record_and_claim(EVENT).attempt == 1
    inbox.close()


def test_interrupted_statement_is_not_written(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After Ctrl-C, to a command, a waiting statement is dropped. Others are written."""
    inbox = Inbox(sqlite_url, lease_seconds=30)
    inbox.check()

    class InterruptedLock(LateLock):
        def acquire(self, timeout: float) -> bool:  # noqa: ARG002 - it ends at once
            raise KeyboardInterrupt

    class InterruptedWrite(group_commit.QueuedWrite):
        def __init__(self, *args: Any, **named: Any) -> None:
            super().__init__(*args, **named)
            self.ended: Any = InterruptedLock(self.ended)

    with ThreadPoolExecutor(1) as pool:
        with holding(inbox) as wait_until_queued:
            with monkeypatch.context() as interrupted:
                # A signal would end the test's own process.
                interrupted.setattr(group_commit, "QueuedWrite", InterruptedWrite)
                with pytest.raises(KeyboardInterrupt):
                    inbox.deliveries.record_and_claim(numbered(1))
            other = pool.submit(inbox.deliveries.record_and_claim, numbered(2))
            wait_until_queued(2)
        assert other.result(30).claim is not None

    assert [event.id for event in inbox.administration.latest(10)] == ["evt_2"]
    inbox.close()


def test_close_writes_what_waits(sqlite_url: str) -> None:
    """Statements in the queue are written before the thread ends. Later ones start a new one."""
    inbox = Inbox(sqlite_url, lease_seconds=30)
    inbox.check()
    writer = writer_of(inbox)
    with ThreadPoolExecutor(3) as pool:
        with holding(inbox) as wait_until_queued:
            waiting = [pool.submit(inbox.deliveries.enqueue, numbered(each)) for each in (1, 2)]
            wait_until_queued(2)
            ended = writer._thread  # noqa: SLF001 - to wait for its end
            closing = pool.submit(writer.close)
            wait_for(lambda: writer._thread is None)  # noqa: SLF001 - until it is closing
        closing.result(30)
        for each in waiting:
            each.result(30)

    assert ended is not None
    assert not ended.is_alive()
    inbox.check()
    assert len(inbox.administration.latest(10)) == 2
    inbox.close()


def test_thread_that_cannot_start_is_unavailable(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A system without a free thread is an outage, and the next statement tries again."""
    inbox = Inbox(sqlite_url, lease_seconds=30)
    inbox.migrate()
    with monkeypatch.context() as full:

        def refuse(_thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        # The limit of a real system would hit the test too.
        full.setattr(threading.Thread, "start", refuse)
        with pytest.raises(InboxUnavailable) as raised:
            inbox.check()

    assert raised.value.reason == "RuntimeError: can't start new thread"
    inbox.check()
    inbox.close()


def test_thread_that_fails_goes_on(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error outside of any statement fails those that wait, and not the next ones."""
    monkeypatch.setattr(threads, "PAUSE_SECONDS", 0.01)
    inbox = Inbox(sqlite_url, lease_seconds=30)
    inbox.check()

    def fail(*_arguments: object) -> Any:
        raise MemoryError

    with monkeypatch.context() as broken, capture_logs() as lines:
        # Memory cannot be made short for one call.
        broken.setattr(SqliteFile, "verify", fail)
        broken.setattr(SqliteFile, "explain", fail)
        with pytest.raises(InboxUnavailable):
            inbox.deliveries.enqueue(EVENT)
        wait_for(lambda: lines)
    inbox.check()

    assert inbox.administration.find(EVENT.id) is None
    assert [line["thread"] for line in lines] == ["inbox-writer"]
    inbox.close()
