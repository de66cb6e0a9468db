"""The connections of a process to PostgreSQL, shared by its threads."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from time import monotonic

import psycopg

from app.inbox.engine import deadline
from app.inbox.engine.circuit_breaker import CircuitBreaker
from app.inbox.engine.deadline import Connection

#: Seconds after a refused connection in which other threads wait for the pool's connections without
#: an attempt of their own. Each attempt costs the server a process.
REFUSED_SECONDS = 0.5

#: Seconds before its deadline at which a thread stops waiting and connects one last time. A later
#: attempt could miss the deadline, which counts as an outage.
LAST_ATTEMPT_SECONDS = 0.5


class ConnectionPool:
    """Connections that threads share. The connection that was returned last is used next.

    The pool connects only when all of its connections are in use. When the server refuses another
    connection, threads wait in turn for those of the pool: a connection limit that is too low
    costs throughput, not availability.
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
            connection = self._reserve(statement_timeout_ms)
            if connection is not None:
                return connection
            try:
                return self._connect()
            except BaseException as error:
                if not (self._note_refusal() and _can_wait(error)):
                    raise

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

    def _note_refusal(self) -> bool:
        """Record that connecting failed. Return whether the pool has other connections."""
        with self._lock:
            if self._in_use > 1 or self._idle:
                self._in_use -= 1
                self._refused_until = monotonic() + REFUSED_SECONDS
                return True
        self._release(None)
        return False

    def _release(self, connection: Connection | None) -> None:
        """Hand the connection, or the right to make one, to the thread that has waited longest."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set_result(connection)
                return
            self._in_use -= 1
            if connection is not None:
                self._idle.append(connection)

    def clear(self) -> None:
        """Close all idle connections."""
        with self._lock:
            while self._idle:
                self._idle.pop().close()


def _can_wait(error: BaseException) -> bool:
    """Return whether a thread can wait for another connection after this ``error``."""
    has_time = deadline.seconds_left() > LAST_ATTEMPT_SECONDS
    return has_time and isinstance(error, psycopg.OperationalError)
