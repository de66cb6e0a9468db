"""Threads share their connections to PostgreSQL, and bear a connection limit that is too low."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
import sqlalchemy as sa

from app.errors import InboxUnavailable
from app.inbox.engine import connection_pool, deadline
from app.inbox.engine.circuit_breaker import CircuitBreaker
from app.inbox.engine.connection_pool import ConnectionPool
from app.inbox.engine.deadline import Connection, TimedOut
from app.inbox.engine.postgresql_engine import PostgresqlEngine

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


@pytest.fixture
def make_limited_url(
    postgresql: str, make_postgresql_url: Callable[..., str]
) -> Iterator[Callable[[int], str]]:
    """A function that makes a new database whose owner may have so many connections."""
    role = f"test_{uuid.uuid4().hex}"
    databases: list[str] = []
    with psycopg.connect(postgresql, autocommit=True) as connection:

        def make(limit: int) -> str:
            connection.execute(
                f"CREATE ROLE {role} LOGIN PASSWORD '{role}' CONNECTION LIMIT {limit}"
            )
            url = sa.make_url(make_postgresql_url(f"OWNER {role}"))
            databases.append(str(url.database))
            return url.set(username=role, password=role).render_as_string(hide_password=False)

        yield make
        for name in databases:
            connection.execute(f"ALTER DATABASE {name} OWNER TO CURRENT_USER")
        connection.execute(f"DROP ROLE {role}")


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
    monkeypatch.setattr(deadline, "SECONDS", 30.0)  # however slow the machine is
    base = PostgresqlEngine(make_limited_url(1))
    with ThreadPoolExecutor(8) as threads:
        runs = [threads.submit(base.execute, BACKEND, {}) for _ in range(100)]
        backends = {each.result() for each in runs}

    assert len(backends) == 1
    base.close()


def test_refusal_is_raised_when_no_connection_is_in_use(
    make_limited_url: Callable[[int], str],
) -> None:
    """No thread can return one, so the server's reason is known at once."""
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
