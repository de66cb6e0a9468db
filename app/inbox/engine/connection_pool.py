"""The connections of a process to PostgreSQL, shared by its threads."""

from __future__ import annotations

import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from time import monotonic
from typing import TypeVar

import psycopg
import sqlalchemy as sa

from app.inbox.engine import deadline, limits
from app.inbox.engine.circuit_breaker import CircuitBreaker
from app.inbox.engine.deadline import Connection
from app.runtime import threads

T = TypeVar("T")

#: Seconds after a refused connection in which other threads wait for the pool's connections without
#: an attempt of their own. Each attempt costs the server a process.
REFUSED_SECONDS = 0.5

#: Seconds before its deadline at which a thread stops waiting and connects one last time. A later
#: attempt could miss the deadline, which counts as an outage.
LAST_ATTEMPT_SECONDS = 0.5

#: Seconds after which an unused connection is closed. Other processes may need it.
IDLE_SECONDS = 10.0

#: Seconds for which connections count as scarce after the server refused one, or granted its last.
SCARCE_SECONDS = 5.0

#: Seconds for which the threads of a process may share a connection while connections are scarce,
#: and between two connections that a process gives back after use. One for each statement would
#: leave a process at its limit a sixteenth of its throughput.
SHARE_SECONDS = 0.1

#: Seconds after which an unused connection is closed while connections are scarce.
SCARCE_IDLE_SECONDS = 0.025

#: Seconds for which a process that closed a scarce connection does not connect.
YIELD_SECONDS = 0.025

#: The range of the pause between two attempts of a process that has no connection, in seconds. It
#: is shorter than ``YIELD_SECONDS``, so that processes take turns.
RETRY_SECONDS = (0.005, 0.02)

#: Texts of PostgreSQL, and the last of PgBouncer, for a connection limit that is reached. An error
#: of connecting has no SQLSTATE.
_REFUSALS = (
    "too many connections",
    "too many clients",
    "connection slots are reserved",
    "no more connections allowed",
)


class ConnectionPool:
    """Connections that threads share. The connection that was returned last is used next.

    The pool connects only when all of its connections are in use. When the server refuses another
    connection, threads wait in turn for those of the pool: a connection limit that is too low
    costs throughput, not availability.

    The limit is shared with other processes. A process that is refused, or gets the last connection
    of the server, closes idle connections at once. At intervals it also gives one back after use,
    and pauses before it connects again. A process that has no connection repeats its attempt until
    the deadline of the call.
    """

    def __init__(self, connect: Callable[[], Connection], breaker: CircuitBreaker) -> None:
        """Take the function that connects, and the ``breaker`` that suspects old connections."""
        self._connect = connect
        self._breaker = breaker
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._in_use = 0
        """The number of connections that are in use or being made."""
        self._waiting: deque[Future[Connection | None]] = deque()
        self._refused_until = -math.inf
        self._scarce_until = -math.inf
        self._connect_after = -math.inf
        self._is_closing = False
        """True while a thread closes idle connections."""

    @property
    def is_scarce(self) -> bool:
        """True if the server has refused a connection, or granted its last one, a moment ago."""
        return monotonic() < self._scarce_until

    def note_scarcity(self) -> None:
        """Give back idle connections now, and others at intervals after use, for some seconds."""
        self._scarce_until = monotonic() + SCARCE_SECONDS
        self.clear()

    @contextmanager
    def connection(self, statement_timeout_ms: int) -> Iterator[Connection]:
        """Lend a connection to the block, one with this ``statement_timeout_ms`` if it is idle.

        An error in the block closes the connection. Raises the error of connecting if no other
        thread returns a connection in time.
        """
        connection = self._take(statement_timeout_ms)
        try:
            yield connection
        except BaseException:
            # Closed even if it is not lost: a demoted server keeps its connections open.
            connection.close()
            raise
        finally:
            if self._breaker.suspects(connection):
                connection.close()
            self._release(None if connection.closed else connection)

    def _take(self, statement_timeout_ms: int) -> Connection:
        while True:
            connection = self._reserve(statement_timeout_ms) or self._make()
            if connection is not None:
                return connection

    def _make(self) -> Connection | None:
        """Return a new connection, or None when the pool has others and the caller is to wait."""
        while True:
            time.sleep(max(0.0, self._connect_after - monotonic()))
            try:
                connection = self._connect()
            except BaseException as error:
                refused = is_refusal(error)
                if refused:
                    self.note_scarcity()
                if _can_wait(error) and self._leave_to_others():
                    return None
                if not (refused and _can_wait(error)):
                    self._release(None)
                    raise
                _pause()
            else:
                if connection.is_last:
                    self.note_scarcity()
                return connection

    def _leave_to_others(self) -> bool:
        """Return the right to make a connection if the pool has other connections.

        If it has none, other threads wait for the next attempt of this one.
        """
        with self._lock:
            self._refused_until = monotonic() + REFUSED_SECONDS
            has_others = self._in_use > 1 or bool(self._idle)
            self._in_use -= has_others
            return has_others

    def _reserve(self, statement_timeout_ms: int) -> Connection | None:
        """Return an idle or returned connection, or None for the right to make one."""
        with self._lock:
            connection = self._pop(statement_timeout_ms)
            if connection is not None or not self._in_use or monotonic() >= self._refused_until:
                self._in_use += 1
                return connection
            returned: Future[Connection | None] = Future()
            self._waiting.append(returned)
        with suppress(TimeoutError):
            returned.result(deadline.seconds_left() - LAST_ATTEMPT_SECONDS)
        with self._lock:
            if returned.done():
                return returned.result()
            self._waiting.remove(returned)
            self._in_use += 1
            return None

    def _pop(self, statement_timeout_ms: int) -> Connection | None:
        while self._idle:
            fitting = [c for c in self._idle if c.statement_timeout_ms == statement_timeout_ms]
            connection = (fitting or self._idle)[-1]
            self._idle.remove(connection)
            if not self._breaker.suspects(connection):
                return connection
            connection.close()
        return None

    def _release(self, connection: Connection | None) -> None:
        """Hand the connection, or the right to make one, to the thread that has waited longest."""
        with self._lock:
            if connection is not None and self._must_give_back(connection):
                connection.close()
                self._connect_after = monotonic() + YIELD_SECONDS
                connection = None
            if self._waiting:
                self._waiting.popleft().set_result(connection)
                return
            self._in_use -= 1
            if connection is not None:
                connection.idle_since = monotonic()
                self._idle.append(connection)
            self._close_unused(IDLE_SECONDS)
            if self.is_scarce and self._idle and not self._is_closing:
                self._begin_closing()

    def _must_give_back(self, connection: Connection) -> bool:
        """Return whether another process may need this returned connection."""
        is_shared = bool(self._waiting) and monotonic() < connection.connected_at + SHARE_SECONDS
        is_due = monotonic() >= self._connect_after + SHARE_SECONDS
        return self.is_scarce and is_due and not is_shared

    def _close_unused(self, seconds: float) -> None:
        """Close the connections that have been idle for ``seconds``."""
        while self._idle and self._idle[0].idle_since <= monotonic() - seconds:
            self._idle.pop(0).close()

    def _begin_closing(self) -> None:
        """Start a thread that closes idle connections: maybe no thread returns one soon."""
        self._is_closing = True
        try:
            threads.start("closing-idle", self._close_scarce)
        except (RuntimeError, MemoryError):
            self._is_closing = False
            self._close_unused(0.0)

    def _close_scarce(self) -> None:
        while self._is_closing:
            time.sleep(SCARCE_IDLE_SECONDS)
            with self._lock:
                self._close_unused(SCARCE_IDLE_SECONDS)
                self._is_closing = self.is_scarce and bool(self._idle)

    def clear(self) -> None:
        """Close all idle connections."""
        with self._lock:
            while self._idle:
                self._idle.pop().close()


def is_refusal(error: BaseException) -> bool:
    """Return whether an ``error`` of connecting says that a connection limit is reached."""
    return any(text in str(error) for text in _REFUSALS)


def repeat_refused(connect: Callable[[], T]) -> T:
    """Call ``connect`` until the connection limit allows a connection, for a second at most.

    Returns the result of ``connect``, or raises its error.
    """
    end = monotonic() + min(deadline.seconds_left(), limits.SECONDS) - LAST_ATTEMPT_SECONDS
    while True:
        try:
            return connect()
        except (psycopg.OperationalError, sa.exc.OperationalError) as error:
            if not is_refusal(error) or monotonic() >= end:
                raise
        _pause()


def _pause() -> None:
    time.sleep(random.uniform(*RETRY_SECONDS))  # noqa: S311 - not for cryptography


def _can_wait(error: BaseException) -> bool:
    """Return whether a thread can wait for another connection after this ``error``."""
    has_time = deadline.seconds_left() > LAST_ATTEMPT_SECONDS
    return has_time and isinstance(error, psycopg.OperationalError)
