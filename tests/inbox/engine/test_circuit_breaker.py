"""After one time-out calls fail at once, and single probes test whether the server is back."""

from __future__ import annotations

import contextlib
import threading
from time import monotonic
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from app.inbox.engine import circuit_breaker
from app.inbox.engine.circuit_breaker import CircuitBreaker, CircuitOpen
from app.inbox.engine.deadline import Connection, TimedOut

LONG = 3600.0
"""Seconds that do not pass in a test."""


@pytest.fixture
def breaker() -> CircuitBreaker:
    """A circuit breaker whose circuit is closed."""
    return CircuitBreaker()


def call(breaker: CircuitBreaker, error: Exception | None = None) -> None:
    """Call the server, which answers, or fails with the ``error``."""
    with breaker.watch(1.0):
        if error is not None:
            raise error


def time_out(breaker: CircuitBreaker, error: Exception | None = None) -> None:
    """Call the server, which does not answer."""
    with pytest.raises(psycopg.Error):
        call(breaker, error or TimedOut())


def connection_made(at: float) -> Connection:
    """Return a stand-in for a connection that was made at this time: only its age counts."""
    made: Any = SimpleNamespace(connected_at=at)
    return made  # type: ignore[no-any-return]  # a real one has a server


@pytest.mark.parametrize(
    "error",
    [
        TimedOut(),
        psycopg.errors.ConnectionTimeout(),
        sa.exc.OperationalError("SELECT 1", {}, TimedOut()),
    ],
)
def test_time_out_opens_the_circuit(
    breaker: CircuitBreaker, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """A time-out of connecting or of a statement, raised by the driver or by SQLAlchemy."""
    monkeypatch.setattr(circuit_breaker, "OPEN_SECONDS", LONG)
    with pytest.raises(type(error)):
        call(breaker, error)

    for _ in range(3):
        with pytest.raises(CircuitOpen):
            call(breaker)


@pytest.mark.parametrize("error", [psycopg.OperationalError("refused"), ValueError("no value")])
def test_immediate_failure_leaves_the_circuit_closed(
    breaker: CircuitBreaker, error: Exception
) -> None:
    """It delays no other call, and the next call may succeed."""
    with pytest.raises(type(error)):
        call(breaker, error)

    call(breaker)


def test_half_open_circuit_lets_one_probe_through(
    breaker: CircuitBreaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other calls fail until the probe is answered, and succeed afterwards."""
    monkeypatch.setattr(circuit_breaker, "OPEN_SECONDS", 0.0)
    monkeypatch.setattr(circuit_breaker, "PROBE_WAIT_SECONDS", 0.0)
    time_out(breaker)

    with breaker.watch(1.0):
        for _ in range(3):
            with pytest.raises(CircuitOpen):
                call(breaker)
    call(breaker)
    call(breaker)


@pytest.mark.parametrize("answered", [True, False])
def test_other_calls_wait_for_the_result_of_a_probe(
    breaker: CircuitBreaker, monkeypatch: pytest.MonkeyPatch, *, answered: bool
) -> None:
    """Calls that arrive together at a server that is back succeed together."""
    monkeypatch.setattr(circuit_breaker, "OPEN_SECONDS", 0.0)
    monkeypatch.setattr(circuit_breaker, "PROBE_WAIT_SECONDS", LONG)
    time_out(breaker)
    monkeypatch.setattr(circuit_breaker, "OPEN_SECONDS", LONG)
    results: list[str] = []

    def call_too() -> None:
        try:
            call(breaker)
        except CircuitOpen:
            results.append("open")
        else:
            results.append("answered")

    others = [threading.Thread(target=call_too) for _ in range(3)]
    with contextlib.suppress(TimedOut), breaker.watch(1.0):
        for each in others:
            each.start()
        if not answered:
            raise TimedOut
    for each in others:
        each.join(30)

    assert results == ["answered" if answered else "open"] * 3


def test_probe_that_times_out_opens_the_circuit_again(
    breaker: CircuitBreaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls fail at once until the next probe is due."""
    monkeypatch.setattr(circuit_breaker, "OPEN_SECONDS", 0.0)
    time_out(breaker)
    monkeypatch.setattr(circuit_breaker, "OPEN_SECONDS", LONG)
    time_out(breaker)

    with pytest.raises(CircuitOpen):
        call(breaker)


def test_any_answer_closes_the_circuit(
    breaker: CircuitBreaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that reports an error answers, so it delays no call."""
    monkeypatch.setattr(circuit_breaker, "OPEN_SECONDS", 0.0)
    time_out(breaker)
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        call(breaker, psycopg.errors.ReadOnlySqlTransaction())

    call(breaker)
    call(breaker)


def test_slow_probe_is_followed_by_another(
    breaker: CircuitBreaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow claim as the probe does not keep deliveries from finding that the server is back."""
    monkeypatch.setattr(circuit_breaker, "OPEN_SECONDS", 0.0)
    monkeypatch.setattr("app.inbox.engine.limits.SECONDS", 0.0)
    time_out(breaker)

    with breaker.watch(1.0):
        call(breaker)


def test_outdated_time_out_leaves_the_circuit_closed(
    breaker: CircuitBreaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that started before the last answer says nothing about the server now."""
    monkeypatch.setattr(circuit_breaker, "OPEN_SECONDS", 0.0)
    with pytest.raises(TimedOut), breaker.watch(1.0):  # noqa: PT012 - two calls at the same time
        time_out(breaker)
        call(breaker)
        monkeypatch.setattr(circuit_breaker, "OPEN_SECONDS", LONG)
        raise TimedOut

    call(breaker)


def test_connections_older_than_an_unanswered_statement_are_suspects(
    breaker: CircuitBreaker,
) -> None:
    """Connections that were made after the statement started are not."""
    before = connection_made(monotonic())
    assert not breaker.suspects(before)
    with pytest.raises(TimedOut), breaker.watch(1.0):  # noqa: PT012 - made during the statement
        after = connection_made(monotonic())
        raise TimedOut

    assert breaker.suspects(before)
    assert not breaker.suspects(after)


def test_time_out_of_connecting_makes_no_suspects(breaker: CircuitBreaker) -> None:
    """The first of several addresses may not answer while open connections work."""
    before = connection_made(monotonic())
    time_out(breaker, psycopg.errors.ConnectionTimeout())

    assert not breaker.suspects(before)
