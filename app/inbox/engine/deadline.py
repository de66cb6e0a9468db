"""How long PostgreSQL is waited for, counted on this side of the connection.

The server's own limits are counted by the server. When its processes are frozen, or the network
swallows what it says, it counts nothing, the kernels go on confirming what is sent, and the
driver would wait for ever.
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

from app.runtime import threads

T = TypeVar("T")

#: Seconds for one statement, with connecting, and with the second try when its connection was
#: lost. A delivery is answered 503 within two seconds, and this leaves some for the rest.
SECONDS = 1.5

#: Seconds for a claim of a worker, which no delivery waits for: among 100,000 events of one object
#: that all have to wait, it takes the server half a second to find that none may run.
PATIENT_SECONDS = 6.0

#: Seconds for what a person or a reconciliation reads: it may go through the whole table.
READ_SECONDS = 35.0

#: Seconds for any other statement, which are those of a migration: more than it waits for others.
LONGEST_SECONDS = 65.0

#: Seconds for which a connection is kept that came too late for who asked for it.
LATE_SECONDS = 5.0

#: Seconds between two looks at the clock while a statement waits.
_TICK = 0.1

_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)


class TimedOut(psycopg.OperationalError):
    """The server did not answer in time. Whether it ran the statement, or still will, is open."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Have all that the block asks of PostgreSQL end within so many seconds, all together."""
    token = _deadline.set(monotonic() + seconds)
    try:
        yield
    finally:
        _deadline.reset(token)


class Connection(psycopg.Connection[Any]):
    """A connection that is closed when an answer does not come in time.

    It is not waited for then, and nothing is asked of the server, which would have to answer
    that as well: not to roll back, and not to cancel the statement.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Take what the driver gives."""
        super().__init__(*args, **kwargs)
        self.made = monotonic()
        """When it was made, by this machine's clock of what has passed."""

    def wait(self, gen: PQGen[T], interval: float = _TICK, timeout: float | None = None) -> T:
        """Run the driver's generator ``gen`` to its end. Raises ``TimedOut``.

        A listener has its own ``timeout``, after which all is well.
        """
        if timeout is not None:
            return super().wait(gen, interval, timeout)
        deadline = _deadline.get()
        if deadline is None:
            deadline = monotonic() + LONGEST_SECONDS
        interval = min(interval, max(0.0, deadline - monotonic()))
        try:
            return super().wait(_until(deadline, gen), interval)
        except TimedOut:
            self.close()
            raise


def _until(deadline: float, gen: PQGen[T]) -> PQGen[T]:
    """Run ``gen``, which says what it waits for and is told what has come, up to a time."""
    try:
        awaited = next(gen)
        while True:
            come = yield awaited
            # What has come is looked at first, even late.
            if not come and monotonic() >= deadline:
                raise TimedOut("PostgreSQL did not answer in time")
            awaited = gen.send(come)
    except StopIteration as end:
        result: T = end.value
        return result


class Connector:
    """Makes connections, and has nobody wait for one longer than ``within`` allows.

    The driver looks up a name for as long as the system takes, and gives each address that it
    finds two seconds at least. So a thread of its own connects, and goes on when it is too late
    for who asked: an address that is reached behind one that does not answer serves the next.
    """

    def __init__(self) -> None:
        """Begin with no connection."""
        self._late: deque[Future[Connection]] = deque()

    def connect(self, *args: Any, **kwargs: Any) -> Connection:
        """Return a connection. Takes the driver's arguments, and raises its errors.

        Outside of ``within`` it is made in this thread: a process that forks next must have
        no other.
        """
        deadline = _deadline.get()
        if deadline is None:
            return Connection.connect(*args, **kwargs)
        future = self._take() or _begin(args, kwargs)
        deadline = min(deadline, monotonic() + SECONDS)
        try:
            return future.result(deadline - monotonic())
        except TimeoutError:
            self._late.append(future)
            raise psycopg.errors.ConnectionTimeout(
                "PostgreSQL could not be connected to in time"
            ) from None

    def _take(self) -> Future[Connection] | None:
        """Return a connection that is still being made, or has just been."""
        with suppress(IndexError):
            while True:
                future = self._late.popleft()
                if not future.done() or _is_fresh(future):
                    return future
                _close(future)
        return None

    def close(self) -> None:
        """Close what nobody has asked for again, at once or when it is there."""
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
    """Connect. Called again when it raises: a future that stays open would block all others."""
    if future.done():
        return
    try:
        connection = Connection.connect(*args, **kwargs)
    except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
        future.set_exception(error)
    else:
        future.set_result(connection)


def _is_fresh(future: Future[Connection]) -> bool:
    made = -math.inf if future.exception() else future.result().made
    return made > monotonic() - LATE_SECONDS


def _close(future: Future[Connection]) -> None:
    if not future.exception():
        future.result().close()
