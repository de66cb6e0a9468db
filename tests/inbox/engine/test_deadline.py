"""Everything that waits for PostgreSQL has a deadline, counted on our side of the connection."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial

import psycopg
import pytest
import sqlalchemy as sa

from app.errors import InboxUnavailable
from app.inbox import Inbox, NewEvent
from app.inbox.engine import (
    circuit_breaker,
    deadline,
    limits,
    postgresql_listener,
    postgresql_session,
)
from app.inbox.engine.deadline import Connector, TimedOut
from app.inbox.engine.postgresql_engine import PostgresqlEngine
from app.runtime import threads
from tests.support.network import Path
from tests.support.waiting import wait_for

EVENT = NewEvent("evt_1", "v1.customer.created", livemode=False, context=None, body=b"{}")
BACKEND = sa.text("SELECT pg_backend_pid()")
SOON = 0.2
"""Seconds of a deadline that these tests wait for."""


@pytest.fixture
def path(postgresql_url: str) -> Iterator[Path]:
    """A network path to the server that can drop all traffic."""
    path = Path(postgresql_url)
    yield path
    path.close()


@pytest.fixture
def connector() -> Iterator[Connector]:
    """A connector without a connection."""
    connector = Connector()
    yield connector
    connector.close()


@pytest.fixture
def base(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PostgresqlEngine]:
    """A database behind that path. Its circuit breaker probes it at once after a time-out."""
    monkeypatch.setattr(circuit_breaker, "OPEN_SECONDS", 0.0)
    monkeypatch.setattr(limits, "SECONDS", 30.0)  # however slow the machine is
    base = PostgresqlEngine(path.url)
    yield base
    path.open()
    base.close()


def dsn(path: Path) -> str:
    """Return the URL of the path in the form of the driver."""
    return path.url.replace("+psycopg", "")


def reason(act: Callable[[], object]) -> str:
    """Return the reason of the ``InboxUnavailable`` that ``act`` raises."""
    with pytest.raises(InboxUnavailable) as raised:
        act()
    return raised.value.reason


def test_unanswered_statement_ends_at_the_deadline(
    path: Path, base: PostgresqlEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not run again on another connection, and later statements succeed."""
    (backend,) = base.execute(BACKEND, {}) or ()
    accepted = path.accepted
    monkeypatch.setattr(limits, "SECONDS", SOON)
    path.swallow()

    error = reason(lambda: base.execute(BACKEND, {}))
    assert error == "TimedOut: PostgreSQL did not answer in time"
    assert path.accepted == accepted
    monkeypatch.setattr(limits, "SECONDS", 30.0)
    path.open()
    (other,) = base.execute(BACKEND, {}) or ()
    assert other != backend


def test_slow_statement_has_more_time_on_both_sides(postgresql_url: str) -> None:
    """A worker's claim may scan many events. A delivery on the same connection has less time."""
    base = PostgresqlEngine(postgresql_url)
    show = sa.text("SHOW statement_timeout")

    shown = [base.execute(show, {}, slow_ok=slow_ok) for slow_ok in (False, True, True, False)]
    assert shown == [("1200ms",), ("5s",), ("5s",), ("1200ms",)]
    base.close()


def test_server_that_answers_ends_a_long_statement_itself(postgresql_url: str) -> None:
    """Its limit is the shorter one: its error arrives, and the circuit stays closed."""
    base = PostgresqlEngine(postgresql_url)
    (backend,) = base.execute(BACKEND, {}) or ()

    error = reason(lambda: base.execute(sa.text("SELECT pg_sleep(60)"), {}))
    assert error == "QueryCanceled: canceling statement due to statement timeout"
    assert base.execute(BACKEND, {}) is not None  # the circuit is closed
    base.close()
    assert backend


def test_connections_of_other_threads_are_replaced(
    path: Path, base: PostgresqlEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connections that a firewall dropped cost one time-out, not one for each thread."""
    backends: list[object] = []
    begin, done = threading.Event(), threading.Event()

    def ask_twice() -> None:
        backends.append(base.execute(BACKEND, {}))
        done.set()
        begin.wait(30)
        backends.append(base.execute(BACKEND, {}))

    other = threading.Thread(target=ask_twice)
    other.start()
    assert done.wait(30)
    base.execute(BACKEND, {})
    base.read(BACKEND, {})
    read = base.read(BACKEND, {})[0][0]
    monkeypatch.setattr(limits, "SECONDS", SOON)
    path.swallow()
    reason(lambda: base.execute(BACKEND, {}))
    monkeypatch.setattr(limits, "SECONDS", 30.0)
    path.open()
    begin.set()
    other.join(30)

    assert len(set(backends)) == 2
    assert base.read(BACKEND, {})[0][0] != read


def test_unanswered_read_ends_at_its_deadline(path: Path, base: PostgresqlEngine) -> None:
    """A list or a count may take long, but not for ever."""
    base.read(BACKEND, {})
    path.swallow()

    assert "TimedOut" in reason(lambda: base.read(BACKEND, {}, SOON))
    path.open()
    assert base.read(BACKEND, {})


def test_connecting_ends_at_the_deadline(
    path: Path, base: PostgresqlEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A port that accepts connections and stays silent costs less than the driver's two seconds."""
    monkeypatch.setattr(limits, "SECONDS", SOON)
    path.swallow()

    error = reason(lambda: base.execute(BACKEND, {}))
    assert error == "ConnectionTimeout: PostgreSQL could not be connected to in time"


def test_late_connection_serves_the_next_caller(path: Path, connector: Connector) -> None:
    """A slow name server, or an address behind one that does not answer, delays only the first."""
    path.swallow()
    for _ in range(2):
        with deadline.within(SOON), pytest.raises(psycopg.errors.ConnectionTimeout):
            connector.connect(dsn(path))
    path.open()

    with deadline.within(30.0), connector.connect(dsn(path)) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert path.accepted == 1


def test_late_connection_is_closed_after_some_seconds(
    path: Path, connector: Connector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A firewall may have dropped an unused connection."""
    path.swallow()
    with deadline.within(SOON), pytest.raises(psycopg.errors.ConnectionTimeout):
        connector.connect(dsn(path))
    (late,) = connector._late  # noqa: SLF001 - to wait for it
    path.open()
    late.result(30)
    monkeypatch.setattr(deadline, "LATE_SECONDS", 0.0)

    with deadline.within(30.0), connector.connect(dsn(path)) as connection:
        assert connection is not late.result()
    assert late.result().closed


def test_late_connection_that_no_caller_takes_is_closed(
    path: Path, base: PostgresqlEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pool needs no new connection then, and other processes share the limit."""
    base.execute(BACKEND, {})
    connector = base._statements._connector  # noqa: SLF001 - to wait for it
    path.swallow()
    with deadline.within(SOON), pytest.raises(psycopg.errors.ConnectionTimeout):
        connector.connect(dsn(path))
    (late,) = connector._late  # noqa: SLF001 - to wait for it
    connector.close_stale()
    assert not late.done()
    path.open()
    late.result(30)
    base.execute(BACKEND, {})
    assert not late.result().closed
    monkeypatch.setattr(deadline, "LATE_SECONDS", 0.0)

    base.execute(BACKEND, {})
    assert late.result().closed


def test_late_failure_is_discarded(path: Path, connector: Connector) -> None:
    """The next caller connects again, and may succeed."""
    path.swallow()
    nowhere = dsn(path).replace("/test_", "/nowhere_")
    with deadline.within(SOON), pytest.raises(psycopg.errors.ConnectionTimeout):
        connector.connect(nowhere)
    (late,) = connector._late  # noqa: SLF001 - to wait for it
    path.open()
    assert "nowhere" in str(late.exception(30))

    with deadline.within(30.0), connector.connect(dsn(path)) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_result_that_cannot_be_handed_over_blocks_no_call(
    path: Path, connector: Connector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When memory is short the thread tries again: the waiting caller gets its connection."""
    monkeypatch.setattr(threads, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(limits, "SECONDS", 30.0)
    set_result = Future.set_result
    failures = [MemoryError(), MemoryError()]

    def fail_first(future: Future[object], result: deadline.Connection) -> None:
        if failures:
            result.close()
            raise failures.pop()
        set_result(future, result)
        raise MemoryError  # after the result was set: it is not set again

    monkeypatch.setattr(Future, "set_result", fail_first)
    with deadline.within(30.0), connector.connect(dsn(path)) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert failures == []


@pytest.mark.parametrize("failure", [RuntimeError("can't start new thread"), MemoryError()])
def test_connection_without_a_thread_is_refused(
    base: PostgresqlEngine, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    """A delivery is answered 503 when the system has no thread left, and the next one succeeds."""

    def refuse(_thread: threading.Thread) -> None:
        raise failure

    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", refuse)
        assert "no thread is left" in reason(lambda: base.execute(BACKEND, {}))
    assert base.execute(BACKEND, {})


def test_close_closes_late_connections(path: Path, connector: Connector) -> None:
    """A connection that is made after the close is closed as well."""
    path.swallow()
    with deadline.within(SOON), pytest.raises(psycopg.errors.ConnectionTimeout):
        connector.connect(dsn(path))
    (late,) = connector._late  # noqa: SLF001 - to wait for it
    connector.close()
    path.open()

    wait_for(lambda: late.result(30).closed)


def test_without_a_deadline_no_thread_is_started(
    postgresql_url: str, connector: Connector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that forks next must have one thread: locks of others stay locked in the child."""
    monkeypatch.setattr(deadline, "_begin", None)  # it starts the thread
    plain = postgresql_url.replace("+psycopg", "")

    with connector.connect(plain) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_statement_without_a_deadline_has_the_longest_limit(
    path: Path, connector: Connector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A statement of a migration may take long, but not for ever."""
    monkeypatch.setattr(deadline, "MAX_SECONDS", SOON)
    connection = connector.connect(dsn(path))
    path.swallow()

    with pytest.raises(TimedOut):
        connection.execute("SELECT 1")
    assert connection.closed


@pytest.mark.no_tables
def test_frozen_server_is_noticed_before_the_migration(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A delivery that would migrate first has the same deadline as any other."""
    monkeypatch.setattr(limits, "SECONDS", SOON)
    monkeypatch.setattr(circuit_breaker, "OPEN_SECONDS", 3600.0)
    inbox = Inbox(path.url, lease_seconds=30)
    path.swallow()

    assert "ConnectionTimeout" in reason(lambda: inbox.deliveries.enqueue(EVENT))
    assert "CircuitOpen" in reason(inbox.administration.paused)
    path.open()
    inbox.close()


def test_listener_notices_a_silent_server(
    path: Path, base: PostgresqlEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silence can mean that there are no notifications, so a listener asks at intervals."""
    monkeypatch.setattr(postgresql_listener, "PROBE_SECONDS", 0.0)
    heard: list[bool] = []
    reasons: list[str] = []

    def listen() -> None:
        never = threading.Event()
        reasons.append(reason(lambda: base.listen("word", lambda: heard.append(True), never)))

    thread = threading.Thread(target=listen)
    thread.start()

    sent: list[bool] = []

    def is_heard(after: int) -> bool:
        base.execute(sa.text("SELECT pg_notify('word', '')"), {})
        sent.append(True)
        return len(heard) > after

    wait_for(partial(is_heard, 0))
    # One that is sent now comes in a later round. Before that the listener asks the server.
    wait_for(partial(is_heard, len(sent)))
    monkeypatch.setattr(limits, "SECONDS", SOON)
    path.swallow()
    thread.join(90)  # a test of the connection may have begun with the longer limit

    assert [each.partition(":")[0] for each in reasons] == ["TimedOut"]
    path.open()


def test_connection_that_refuses_a_setting_is_closed(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the setting commits may not be durable. The connection does not leak."""
    monkeypatch.setattr(postgresql_session, "_BEGIN_SESSION", "SELECT set_config('wrong', 'on')")
    base = PostgresqlEngine(postgresql_url)

    assert "set_config" in reason(lambda: base.execute(BACKEND, {}))
    assert "set_config" in reason(lambda: base.read(BACKEND, {}))
    monkeypatch.undo()
    assert base.execute(BACKEND, {})
    base.close()
