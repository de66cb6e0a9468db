"""A deadline for everything that waits for PostgreSQL, counted on this side of the connection.

The server counts its own limits. It counts nothing when its processes are frozen or the network
drops its answers. The kernels still confirm what is sent, so the driver would wait for ever.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from time import monotonic
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen

from app.inbox.engine import limits
from app.runtime import threads

T = TypeVar("T")

#: Seconds for a worker's claim. No delivery waits for it. Among 100,000 events of one concurrency
#: key that all have to wait, the server takes half a second to find that none may run.
SLOW_SECONDS = 6.0

#: Seconds for a read of a command or of reconciliation: it may scan the whole table.
READ_SECONDS = 35.0

#: Seconds for each statement without a deadline, which is one of a migration. It exceeds the time
#: that a migration waits for another one.
MAX_SECONDS = 65.0

#: Seconds for which a connection is kept that was made too late for its caller.
LATE_SECONDS = 5.0

#: Seconds between two checks of the deadline while a statement waits.
_CHECK_SECONDS = 0.1

_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)


class TimedOut(psycopg.OperationalError):
    """The server did not answer before the deadline. It may have run the statement, or may yet."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Set a deadline, ``seconds`` from now, for all calls to PostgreSQL in the block together."""
    token = _deadline.set(monotonic() + seconds)
    try:
        yield
    finally:
        _deadline.reset(token)


def seconds_left() -> float:
    """Return the seconds until the deadline, or ``MAX_SECONDS`` without one."""
    deadline = _deadline.get()
    return MAX_SECONDS if deadline is None else deadline - monotonic()


class Connection(psycopg.Connection[Any]):
    """A connection that is closed when an answer misses the deadline.

    Closing it asks nothing of the server. A rollback or a cancel request would wait for another
    answer.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take the arguments of the driver."""
        super().__init__(*args, **kwargs)
        self.connected_at = monotonic()
        """The monotonic time at which it was made."""
        self.statement_timeout_ms = 0
        """The server's limit for a statement, if the connection's owner changes it."""
        self.is_pooled = False
        """True if a pooler is in between, which may give each transaction another server process.
        """
        self.is_last = False
        """True if the server allowed no further connection when this one was made."""
        self.idle_since = self.connected_at
        """The monotonic time at which it was last returned to its pool."""

    def wait(
        self, gen: PQGen[T], interval: float = _CHECK_SECONDS, timeout: float | None = None
    ) -> T:
        """Run the driver's generator ``gen`` to its end. Raises ``TimedOut`` at the deadline.

        A listener passes its own ``timeout``. Its end is no failure.
        """
        if timeout is not None:
            return super().wait(gen, interval, timeout)
        left = seconds_left()
        try:
            return super().wait(_until(monotonic() + left, gen), min(interval, max(0.0, left)))
        except TimedOut:
            self.close()
            raise


def _until(deadline: float, gen: PQGen[T]) -> PQGen[T]:
    """Run the driver's generator ``gen``. Raises ``TimedOut`` at the monotonic ``deadline``."""
    try:
        awaited = next(gen)
        while True:
            ready = yield awaited
            # An answer that has arrived is read first, even after the deadline.
            if not ready and monotonic() >= deadline:
                raise TimedOut("PostgreSQL did not answer in time")
            awaited = gen.send(ready)
    except StopIteration as end:
        result: T = end.value
        return result


class Connector:
    """Makes connections within the deadline of the caller.

    The driver resolves a name for as long as the system takes, and gives each address at least two
    seconds. So a separate thread connects. It continues after the caller's deadline, because an
    address behind one that does not answer is reached late. The next caller gets that connection.
    """

    def __init__(self) -> None:
        """Start with no connection."""
        self._late: deque[Future[Connection]] = deque()

    def connect(self, *args: Any, **kwargs: Any) -> Connection:
        """Return a connection. Takes the driver's arguments, and raises the driver's errors.

        Without a deadline this thread connects: a process that forks next must have no other
        thread.
        """
        if _deadline.get() is None:
            return Connection.connect(*args, **kwargs)
        future = self._take() or _begin(args, kwargs)
        try:
            return future.result(min(seconds_left(), limits.SECONDS))
        except TimeoutError:
            self._late.append(future)
            raise psycopg.errors.ConnectionTimeout(
                "PostgreSQL could not be connected to in time"
            ) from None

    def _take(self) -> Future[Connection] | None:
        """Return a late connection: one in progress, or one that is fresh."""
        with suppress(IndexError):
            while True:
                future = self._late.popleft()
                if not future.done() or _is_fresh(future):
                    return future
                _close(future)
        return None

    def close_stale(self) -> None:
        """Close the connections that were made too late and that no caller took."""
        with suppress(IndexError):  # another thread took the last one
            for _ in range(len(self._late)):
                future = self._late.popleft()
                if future.done() and not _is_fresh(future):
                    _close(future)
                else:
                    self._late.append(future)

    def close(self) -> None:
        """Close the late connections: at once, or as soon as they are made."""
        while self._late:
            self._late.popleft().add_done_callback(_close)


def _begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Future[Connection]:
    future: Future[Connection] = Future()
    try:
        threads.start("connecting", partial(_fill, future, args, kwargs))
    except (RuntimeError, MemoryError) as error:
        raise psycopg.OperationalError("no thread is left to connect in") from error
    return future


def _fill(future: Future[Connection], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Connect. Called again when it raises: a future that never ends would block all callers."""
    if future.done():
        return
    try:
        connection = Connection.connect(*args, **kwargs)
    except BaseException as error:  # noqa: BLE001 - the caller of result() gets it
        future.set_exception(error)
    else:
        future.set_result(connection)


def _is_fresh(future: Future[Connection]) -> bool:
    connected_at = -math.inf if future.exception() else future.result().connected_at
    return connected_at > monotonic() - LATE_SECONDS


def _close(future: Future[Connection]) -> None:
    if not future.exception():
        future.result().close()
