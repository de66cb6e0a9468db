"""Access to the writer thread of an inbox on SQLite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast
from unittest.mock import patch

from app.inbox import Inbox, NewEvent
from app.inbox.engine.group_commit import GroupCommit, QueuedWrite
from app.inbox.engine.sqlite_engine import SqliteEngine
from app.inbox.engine.sqlite_file import Connection
from tests.support.waiting import wait_for

EVENT = NewEvent("evt_1", "v1.customer.created", livemode=False, context=None, body=b"{}")


def numbered(number: int) -> NewEvent:
    """Return an event with an id of its own."""
    return replace(EVENT, id=f"evt_{number}")


def engine_of(inbox: Inbox) -> SqliteEngine:
    """Return the engine of an ``inbox`` on SQLite."""
    return cast("SqliteEngine", inbox._store.engine)  # noqa: SLF001 - no other way


def writer_of(inbox: Inbox) -> GroupCommit:
    """Return the group commit of an ``inbox`` on SQLite."""
    return engine_of(inbox)._connect().writer  # noqa: SLF001 - no other way


def connection_of(inbox: Inbox) -> Connection:
    """Return the connection that writes for an ``inbox`` on SQLite."""
    writer = writer_of(inbox)
    with writer.hold_write_lock(), writer._lock:  # noqa: SLF001 - as the writer thread does
        return writer._transactions.connect(writer._lock)  # noqa: SLF001 - no other way


def trace(inbox: Inbox) -> list[str]:
    """Return a list that fills with the SQL that the ``inbox`` writes from now on."""
    inbox.check()
    statements: list[str] = []
    connection_of(inbox).set_trace_callback(statements.append)
    return statements


def words(statements: list[str]) -> list[str]:
    """Return the first word of each of the ``statements``."""
    return [each.split()[0] for each in statements]


@contextmanager
def holding(inbox: Inbox) -> Iterator[Callable[[int], None]]:
    """Let nothing be written in the block. Yields a function that waits for N queued writes."""
    queued: list[QueuedWrite] = []
    wait = QueuedWrite.wait

    def counted_wait(write: QueuedWrite) -> Any:
        queued.append(write)
        return wait(write)

    # A thread calls it when its statement is in the queue. Nothing else tells so.
    with patch.object(QueuedWrite, "wait", counted_wait), writer_of(inbox).hold_write_lock():
        yield lambda number: wait_for(lambda: len(queued) == number)


def together(inbox: Inbox, *acts: Callable[[], Any]) -> list[Any]:
    """Return the results of the ``acts``, whose statements are written in one transaction."""
    with ThreadPoolExecutor(len(acts)) as pool:
        with holding(inbox) as wait_until_queued:
            results = []
            for number, act in enumerate(acts, start=1):
                results.append(pool.submit(act))
                wait_until_queued(number)
        return [result.result(30) for result in results]
