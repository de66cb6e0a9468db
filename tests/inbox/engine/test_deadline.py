"""PostgreSQL is waited for within limits that are counted on our side of the connection."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future

import psycopg
import pytest
import sqlalchemy as sa

from app.errors import InboxUnavailable
from app.inbox import Inbox, NewEvent
from app.inbox.engine import circuit_breaker, deadline, postgresql, postgresql_engine
from app.inbox.engine.deadline import Connector, TimedOut
from app.inbox.engine.postgresql_engine import PostgresqlEngine
from app.runtime import threads
from tests.support.network import Path
from tests.support.waiting import wait_for

EVENT = NewEvent("evt_1", "v1.customer.created", livemode=False, context=None, body=b"{}")
BACKEND = sa.text("SELECT pg_backend_pid()")
SOON = 0.2
"""Seconds within which what is swallowed is given up in these tests."""


@pytest.fixture
def path(postgresql_url: str) -> Iterator[Path]:
    """A path to the server that can swallow what is sent."""
    path = Path(postgresql_url)
    yield path
    path.close()


@pytest.fixture
def connector() -> Iterator[Connector]:
    """What makes connections."""
    connector = Connector()
    yield connector
    connector.close()


@pytest.fixture
def base(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PostgresqlEngine]:
    """A database behind that path, that is asked again at once after an outage."""
    monkeypatch.setattr(circuit_breaker, "AWAY_SECONDS", 0.0)
    monkeypatch.setattr(deadline, "SECONDS", 30.0)  # however slow the machine is
    base = PostgresqlEngine(path.url)
    yield base
    path.open()
    base.close()


def dsn(path: Path) -> str:
    """Return the path's URL as the driver takes it."""
    return path.url.replace("+psycopg", "")


def reason(act: Callable[[], object]) -> str:
    """Return why the database is not available."""
    with pytest.raises(InboxUnavailable) as raised:
        act()
    return raised.value.reason


def test_statement_that_is_not_answered_is_given_up(
    path: Path, base: PostgresqlEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not run again on another connection, which may be as silent, and all is well later."""
    (backend,) = base.execute(BACKEND, {}) or ()
    accepted = path.accepted
    monkeypatch.setattr(deadline, "SECONDS", SOON)
    path.swallow()

    said = reason(lambda: base.execute(BACKEND, {}))
    assert said == "TimedOut: PostgreSQL did not answer in time"
    assert path.accepted == accepted
    monkeypatch.setattr(deadline, "SECONDS", 30.0)
    path.open()
    (other,) = base.execute(BACKEND, {}) or ()
    assert other != backend


def test_patient_statement_has_more_time_on_both_sides(postgresql_url: str) -> None:
    """A worker's claim may look at many events; once it has, its connection stays so."""
    base = PostgresqlEngine(postgresql_url)
    show = sa.text("SHOW statement_timeout")

    shown = [base.execute(show, {}, slow_ok=slow_ok) for slow_ok in (False, True, True, False)]
    assert shown == [("1200ms",), ("5s",), ("5s",), ("5s",)]
    base.close()


def test_answer_comes_from_the_server_where_there_is_one(postgresql_url: str) -> None:
    """Its own limit is the shorter one: it says what was wrong, and the connection is kept."""
    base = PostgresqlEngine(postgresql_url)
    (backend,) = base.execute(BACKEND, {}) or ()

    said = reason(lambda: base.execute(sa.text("SELECT pg_sleep(60)"), {}))
    assert said == "QueryCanceled: canceling statement due to statement timeout"
    assert base.execute(BACKEND, {}) is not None  # no outage
    base.close()
    assert backend


def test_connections_of_other_threads_are_replaced(
    path: Path, base: PostgresqlEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the path has forgotten costs one time-out, and not one for each thread."""
    backends: list[object] = []
    turn, done = threading.Event(), threading.Event()

    def ask_twice() -> None:
        backends.append(base.execute(BACKEND, {}))
        done.set()
        turn.wait(30)
        backends.append(base.execute(BACKEND, {}))

    other = threading.Thread(target=ask_twice)
    other.start()
    assert done.wait(30)
    base.execute(BACKEND, {})
    base.read(BACKEND, {})
    read = base.read(BACKEND, {})[0][0]
    monkeypatch.setattr(deadline, "SECONDS", SOON)
    path.swallow()
    reason(lambda: base.execute(BACKEND, {}))
    monkeypatch.setattr(deadline, "SECONDS", 30.0)
    path.open()
    turn.set()
    other.join(30)

    assert len(set(backends)) == 2
    assert base.read(BACKEND, {})[0][0] != read


def test_reading_has_an_end(path: Path, base: PostgresqlEngine) -> None:
    """A list or a count may take long, and does not take for ever."""
    base.read(BACKEND, {})
    path.swallow()

    assert "TimedOut" in reason(lambda: base.read(BACKEND, {}, SOON))
    path.open()
    assert base.read(BACKEND, {})


def test_connecting_is_given_up(
    path: Path, base: PostgresqlEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A port that takes connections and says nothing: less than the driver's two seconds."""
    monkeypatch.setattr(deadline, "SECONDS", SOON)
    path.swallow()

    said = reason(lambda: base.execute(BACKEND, {}))
    assert said == "ConnectionTimeout: PostgreSQL could not be connected to in time"


def test_connection_that_came_late_serves_the_next(path: Path, connector: Connector) -> None:
    """An address behind one that does not answer is reached by and by, and names are found."""
    path.swallow()
    for _ in range(2):
        with deadline.within(SOON), pytest.raises(psycopg.errors.ConnectionTimeout):
            connector.connect(dsn(path))
    path.open()

    with deadline.within(30.0), connector.connect(dsn(path)) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert path.accepted == 1


def test_connection_that_came_long_ago_is_closed(
    path: Path, connector: Connector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has asked for it: the path may have forgotten it by now."""
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


def test_failure_that_came_late_is_forgotten(path: Path, connector: Connector) -> None:
    """It says nothing of now."""
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
    """When memory is short the thread tries again: a call that waits gets its connection."""
    monkeypatch.setattr(threads, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(deadline, "SECONDS", 30.0)
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
    """A delivery is answered 503 when the system has no thread left, and the next one is well."""

    def refuse(_thread: threading.Thread) -> None:
        raise failure

    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", refuse)
        assert "no thread is left" in reason(lambda: base.execute(BACKEND, {}))
    assert base.execute(BACKEND, {})


def test_nothing_is_left_behind(path: Path, connector: Connector) -> None:
    """A connection that comes after everything was closed is closed as well."""
    path.swallow()
    with deadline.within(SOON), pytest.raises(psycopg.errors.ConnectionTimeout):
        connector.connect(dsn(path))
    (late,) = connector._late  # noqa: SLF001 - to wait for it
    connector.close()
    path.open()

    wait_for(lambda: late.result(30).closed)


def test_process_that_forks_next_connects_in_no_other_thread(
    postgresql_url: str, connector: Connector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread does not survive a fork, and what it holds is held for ever."""
    monkeypatch.setattr(deadline, "_begin", None)  # which begins a thread: calling it would fail
    plain = postgresql_url.replace("+psycopg", "")

    with connector.connect(plain) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_statement_outside_of_all_limits_has_one(
    path: Path, connector: Connector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of a migration may take long, one by one."""
    monkeypatch.setattr(deadline, "LONGEST_SECONDS", SOON)
    connection = connector.connect(dsn(path))
    path.swallow()

    with pytest.raises(TimedOut):
        connection.execute("SELECT 1")
    assert connection.closed


def test_frozen_server_is_found_out_before_the_tables_are_made(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it was not there at the start, a delivery finds that out within the same limit."""
    monkeypatch.setattr(deadline, "SECONDS", SOON)
    monkeypatch.setattr(circuit_breaker, "AWAY_SECONDS", 3600.0)
    inbox = Inbox(path.url, lease_seconds=30)
    path.swallow()

    assert "ConnectionTimeout" in reason(lambda: inbox.deliveries.enqueue(EVENT))
    assert "CircuitOpen" in reason(inbox.administration.paused)
    path.open()
    inbox.close()


def test_listener_finds_out_that_nobody_speaks(
    path: Path, base: PostgresqlEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silence does not say whether there was nothing to say, so it asks every now and then."""
    monkeypatch.setattr(postgresql_engine, "PROBE_SECONDS", 0.0)
    heard: list[bool] = []
    reasons: list[str] = []

    def listen() -> None:
        never = threading.Event()
        reasons.append(reason(lambda: base.listen("word", lambda: heard.append(True), never)))

    thread = threading.Thread(target=listen)
    thread.start()

    def is_heard() -> bool:
        base.execute(sa.text("SELECT pg_notify('word', '')"), {})
        return len(heard) > 3

    wait_for(is_heard)
    monkeypatch.setattr(deadline, "SECONDS", SOON)
    path.swallow()
    thread.join(30)

    assert [each.partition(":")[0] for each in reasons] == ["TimedOut"]
    path.open()


def test_connection_that_cannot_be_prepared_is_closed(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that refuses the setting is one that cannot be used, and nothing is left open."""
    monkeypatch.setattr(postgresql, "_COMMIT_SYNCHRONOUSLY", "SELECT set_config('wrong', 'on')")
    base = PostgresqlEngine(postgresql_url)

    assert "set_config" in reason(lambda: base.execute(BACKEND, {}))
    assert "set_config" in reason(lambda: base.read(BACKEND, {}))
    monkeypatch.undo()
    assert base.execute(BACKEND, {})
    base.close()
