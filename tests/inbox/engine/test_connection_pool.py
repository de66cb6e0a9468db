"""Threads share their connections to PostgreSQL, and bear a connection limit that is too low."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
import sqlalchemy as sa

from app.errors import InboxUnavailable
from app.inbox.engine import connection_pool, deadline, limits
from app.inbox.engine.circuit_breaker import CircuitBreaker
from app.inbox.engine.connection_pool import ConnectionPool, repeat_refused
from app.inbox.engine.deadline import Connection, TimedOut
from app.inbox.engine.postgresql_engine import PostgresqlEngine
from tests.support.network import Path
from tests.support.waiting import wait_for

BACKEND = sa.text("SELECT pg_backend_pid()")
MS = 1_000
"""The statement timeout of most connections here."""


class Server:
    """A way to connect to the server, which can be refused."""

    def __init__(self, url: str) -> None:
        """Take the ``url`` of the server."""
        self._url = url.replace("+psycopg", "")
        self.errors: list[Exception] = []
        """Raised by the next attempts to connect."""
        self.attempts = 0
        """The number of attempts to connect."""
        self.refused = threading.Event()
        """Set by the first refused attempt."""

    def connect(self) -> Connection:
        """Return a new connection."""
        self.attempts += 1
        if self.errors:
            self.refused.set()
            raise self.errors.pop()
        connection = Connection.connect(self._url, autocommit=True)
        connection.statement_timeout_ms = MS
        return connection


@pytest.fixture
def breaker() -> CircuitBreaker:
    """A circuit breaker whose circuit is closed."""
    return CircuitBreaker()


@pytest.fixture
def server(postgresql_url: str) -> Server:
    """A server that accepts connections."""
    return Server(postgresql_url)


@pytest.fixture
def pool(server: Server, breaker: CircuitBreaker) -> Iterator[ConnectionPool]:
    """A pool without a connection."""
    pool = ConnectionPool(server.connect, breaker)
    yield pool
    pool.clear()


def test_returned_connection_is_used_again(pool: ConnectionPool, server: Server) -> None:
    """The pool connects only when all of its connections are in use, and uses the last one next."""
    with pool.connection(MS) as first, pool.connection(MS) as second:
        assert first is not second
    for _ in range(3):
        with pool.connection(MS) as connection:
            assert connection is first  # the outer block of the two ended last
    assert server.attempts == 2


def test_threads_share_a_connection(postgresql_url: str) -> None:
    """Threads that write one after the other use one connection."""
    base = PostgresqlEngine(postgresql_url)
    backends = []
    for _ in range(3):
        with ThreadPoolExecutor(1) as thread:
            backends.append(thread.submit(base.execute, BACKEND, {}).result())

    assert len(set(backends)) == 1
    base.close()


def test_connection_with_the_same_statement_timeout_is_preferred(pool: ConnectionPool) -> None:
    """Changing the timeout costs a round trip."""
    with pool.connection(MS) as slow:
        slow.statement_timeout_ms = 5 * MS
        with pool.connection(MS) as fast:
            pass

    with pool.connection(MS) as connection:
        assert connection is fast
        with pool.connection(MS) as other:
            assert other is slow


def test_error_closes_the_connection(pool: ConnectionPool) -> None:
    """A statement of another thread never meets a connection in an unknown state."""
    with pytest.raises(ValueError, match="wrong"), pool.connection(MS) as connection:
        raise ValueError("wrong")

    assert connection.closed
    with pool.connection(MS) as other:
        assert other is not connection


def test_suspected_connection_is_replaced(pool: ConnectionPool, breaker: CircuitBreaker) -> None:
    """After a time-out no older connection is used, or each would cost a time-out."""
    with pool.connection(MS) as first, pool.connection(MS) as second:
        pass
    with pytest.raises(TimedOut), breaker.watch(1.0):
        raise TimedOut

    with pool.connection(MS) as connection:
        assert connection not in {first, second}
    assert first.closed
    assert second.closed


def test_limit_that_is_too_low_costs_no_write(
    make_limited_url: Callable[[int], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight threads that may have one connection all write, one after the other."""
    monkeypatch.setattr(limits, "SECONDS", 30.0)  # however slow the machine is
    base = PostgresqlEngine(make_limited_url(1))
    with ThreadPoolExecutor(8) as threads:
        runs = [threads.submit(base.execute, BACKEND, {}) for _ in range(100)]
        backends = [each.result() for each in runs]

    assert all(backends)
    base.close()


def test_refusal_is_raised_when_no_connection_is_in_use(
    make_limited_url: Callable[[int], str],
) -> None:
    """No thread can return one, and no attempt before the deadline is granted."""
    base = PostgresqlEngine(make_limited_url(0))

    with pytest.raises(InboxUnavailable) as raised:
        base.execute(BACKEND, {})
    assert "too many connections" in raised.value.reason
    base.close()


def test_waiting_thread_connects_when_the_other_connection_fails(
    pool: ConnectionPool, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A closed connection is not returned, but the server may accept another one then."""
    monkeypatch.setattr(connection_pool, "REFUSED_SECONDS", 30.0)

    def use() -> bool:
        with pool.connection(MS) as connection:
            return connection.closed

    with ThreadPoolExecutor(1) as thread:
        with pytest.raises(ValueError, match="wrong"), pool.connection(MS):  # noqa: PT012 - held
            server.errors.append(psycopg.OperationalError("too many connections"))
            other = thread.submit(use)
            assert server.refused.wait(30)
            raise ValueError("wrong")
        assert other.result(30) is False
    assert server.attempts == 3


def test_refusal_is_raised_before_the_deadline(
    pool: ConnectionPool, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that gets no connection tries once more, and its error does not open the circuit."""
    monkeypatch.setattr(connection_pool, "LAST_ATTEMPT_SECONDS", 29.0)
    with pool.connection(MS), deadline.within(30.0):
        server.errors += [psycopg.OperationalError("too many connections")] * 9
        with pytest.raises(psycopg.OperationalError, match="too many"), pool.connection(MS):
            pass
    assert server.attempts > 2


def test_connection_that_becomes_suspect_in_use_is_closed(
    pool: ConnectionPool, breaker: CircuitBreaker
) -> None:
    """A thread that waits is never handed a connection that would cost it a time-out."""
    with pool.connection(MS) as connection, pytest.raises(TimedOut), breaker.watch(1.0):
        raise TimedOut

    assert connection.closed


def test_other_errors_of_connecting_are_raised_at_once(
    pool: ConnectionPool, server: Server
) -> None:
    """Waiting for another connection would hide a mistake in the settings."""
    with pool.connection(MS):
        server.errors.append(psycopg.ProgrammingError("invalid option"))
        with pytest.raises(psycopg.ProgrammingError, match="option"), pool.connection(MS):
            pass


TOO_MANY = "too many connections for role"


def test_process_without_a_connection_repeats_its_attempt(
    pool: ConnectionPool, server: Server
) -> None:
    """Other processes give back connections, so the next attempt may be granted."""
    server.errors += [psycopg.OperationalError(TOO_MANY)] * 3

    with deadline.within(30.0), pool.connection(MS) as connection:
        assert connection.closed is False
    assert server.attempts == 4


def test_other_threads_wait_for_the_repeated_attempt(
    pool: ConnectionPool, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each attempt costs the server a process, so a process makes one at a time."""
    monkeypatch.setattr(connection_pool, "RETRY_SECONDS", (0.5, 0.5))
    server.errors += [psycopg.OperationalError(TOO_MANY)] * 2
    backends: list[int] = []

    def use() -> None:
        with deadline.within(30.0), pool.connection(MS) as connection:
            backends.append(connection.info.backend_pid)

    with ThreadPoolExecutor(8) as threads:
        first = threads.submit(use)
        assert server.refused.wait(30)
        for each in [first, *(threads.submit(use) for _ in range(7))]:
            each.result(30)
    assert len(backends) == 8
    assert server.attempts < 8 + 2


def test_scarce_connection_is_given_back_after_use(pool: ConnectionPool) -> None:
    """Other processes share the connection limit, and may have no connection."""
    with pool.connection(MS) as first:
        with pool.connection(MS) as second:
            pass
        pool.note_scarcity()
        assert (first.closed, second.closed) == (False, True)

    assert first.closed


def test_one_scarce_connection_is_given_back_in_each_interval(
    pool: ConnectionPool, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that uses exactly its limit stays nearly as fast as below it."""
    monkeypatch.setattr(connection_pool, "SHARE_SECONDS", 30.0)
    monkeypatch.setattr(connection_pool, "SCARCE_IDLE_SECONDS", 30.0)
    pool.note_scarcity()

    used = []
    for _ in range(5):
        with pool.connection(MS) as connection:
            used.append(connection)
    assert used[0].closed
    assert set(used[1:]) == {used[1]}
    assert server.attempts == 2


@pytest.mark.parametrize("error", [None, RuntimeError("can't start new thread"), MemoryError()])
def test_unused_scarce_connection_is_closed(
    pool: ConnectionPool, monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    """Another process gets it though this one runs no further statement."""

    def refuse(_thread: threading.Thread) -> None:
        assert error is not None
        raise error

    monkeypatch.setattr(connection_pool, "SHARE_SECONDS", 30.0)
    pool.note_scarcity()
    with pool.connection(MS) as given_back:
        pass
    with monkeypatch.context() as full:
        if error is not None:
            full.setattr(threading.Thread, "start", refuse)
        with pool.connection(MS) as kept:
            pass
    assert given_back.closed
    wait_for(lambda: kept.closed)


def test_last_connection_is_given_back_after_use(
    make_limited_url: Callable[[int], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server refuses nothing, but the next process would be refused."""
    monkeypatch.setattr(limits, "SECONDS", 30.0)
    url = make_limited_url(2)
    engines = [PostgresqlEngine(url) for _ in range(3)]

    for engine in engines * 2:
        assert engine.execute(BACKEND, {})
    assert [each._statements.pool.is_scarce for each in engines] == [False, True, True]  # noqa: SLF001 - no other way
    for engine in engines:
        engine.close()


def test_last_connection_of_a_pooler_is_kept(make_limited_url: Callable[[int], str]) -> None:
    """Clients of the pooler wait in turn for its connections, so the service keeps its own."""
    path = Path(make_limited_url(1), is_pooler=True)
    engine = PostgresqlEngine(path.url)

    assert engine.execute(BACKEND, {}) == engine.execute(BACKEND, {})
    assert path.accepted == 1
    engine.close()
    path.close()


def test_scarce_connection_is_shared_for_a_moment(
    pool: ConnectionPool, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then it is closed though a thread waits, and that thread connects after a pause."""
    monkeypatch.setattr(connection_pool, "REFUSED_SECONDS", 30.0)
    monkeypatch.setattr(connection_pool, "SHARE_SECONDS", 0.0)

    def use() -> Connection:
        with deadline.within(30.0), pool.connection(MS) as connection:
            return connection

    with ThreadPoolExecutor(1) as thread:
        with pool.connection(MS) as connection:
            server.errors.append(psycopg.OperationalError(TOO_MANY))
            waiting = thread.submit(use)
            wait_for(lambda: pool._waiting)  # noqa: SLF001 - no other way
        assert waiting.result(30) is not connection
    assert connection.closed


def test_idle_connection_is_closed(pool: ConnectionPool) -> None:
    """A burst needs more connections than the hours after it."""
    with pool.connection(MS) as first, pool.connection(MS) as second:
        pass
    assert (first.closed, second.closed) == (False, False)
    second.idle_since -= connection_pool.IDLE_SECONDS

    with pool.connection(MS) as connection:
        assert connection is first
    assert (first.closed, second.closed) == (False, True)


def test_refused_migration_is_repeated() -> None:
    """A start beside running replicas waits a moment for the connection that it needs."""
    errors = [psycopg.OperationalError(TOO_MANY), psycopg.OperationalError(TOO_MANY)]

    def connect() -> str:
        if errors:
            raise errors.pop()
        return "connected"

    with deadline.within(30.0):
        assert repeat_refused(connect) == "connected"
    errors.append(psycopg.OperationalError("Connection refused"))
    with pytest.raises(psycopg.OperationalError, match="refused"):
        repeat_refused(connect)
