"""After one time-out nobody waits for the server, and one at a time looks for it."""

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

AGES = 3600.0


@pytest.fixture
def server() -> CircuitBreaker:
    """What is known of a server that is well."""
    return CircuitBreaker()


def ask(server: CircuitBreaker, error: Exception | None = None) -> None:
    """Ask the server, which answers, or does not."""
    with server.watch(1.0):
        if error is not None:
            raise error


def time_out(server: CircuitBreaker, error: Exception | None = None) -> None:
    """Ask the server, which does not answer."""
    with pytest.raises(psycopg.Error):
        ask(server, error or TimedOut())


def connection_made(at: float) -> Connection:
    """Return what has been made at that time: only its age counts."""
    made: Any = SimpleNamespace(made=at)
    return made  # type: ignore[no-any-return]  # a real one has a server


@pytest.mark.parametrize(
    "error",
    [
        TimedOut(),
        psycopg.errors.ConnectionTimeout(),
        sa.exc.OperationalError("SELECT 1", {}, TimedOut()),
    ],
)
def test_nobody_waits_after_a_time_out(
    server: CircuitBreaker, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Whether to connect or for an answer, and whoever reports it."""
    monkeypatch.setattr(circuit_breaker, "AWAY_SECONDS", AGES)
    with pytest.raises(type(error)):
        ask(server, error)

    for _ in range(3):
        with pytest.raises(CircuitOpen):
            ask(server)


@pytest.mark.parametrize("error", [psycopg.OperationalError("refused"), ValueError("no value")])
def test_what_fails_at_once_begins_no_outage(server: CircuitBreaker, error: Exception) -> None:
    """It holds up nobody, and the next one may have more luck."""
    with pytest.raises(type(error)):
        ask(server, error)

    ask(server)


def test_one_looks_while_the_others_fail(
    server: CircuitBreaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it is time to look, one call is let through; if it is answered, all are."""
    monkeypatch.setattr(circuit_breaker, "AWAY_SECONDS", 0.0)
    monkeypatch.setattr(circuit_breaker, "HOPE_SECONDS", 0.0)
    time_out(server)

    with server.watch(1.0):
        for _ in range(3):
            with pytest.raises(CircuitOpen):
                ask(server)
    ask(server)
    ask(server)


@pytest.mark.parametrize("answered", [True, False])
def test_others_wait_a_moment_for_what_comes_of_a_look(
    server: CircuitBreaker, monkeypatch: pytest.MonkeyPatch, *, answered: bool
) -> None:
    """A crowd that finds the server back is not refused because one of them looked first."""
    monkeypatch.setattr(circuit_breaker, "AWAY_SECONDS", 0.0)
    monkeypatch.setattr(circuit_breaker, "HOPE_SECONDS", AGES)
    time_out(server)
    monkeypatch.setattr(circuit_breaker, "AWAY_SECONDS", AGES)
    results: list[str] = []

    def ask_too() -> None:
        try:
            ask(server)
        except CircuitOpen:
            results.append("away")
        else:
            results.append("well")

    others = [threading.Thread(target=ask_too) for _ in range(3)]
    with contextlib.suppress(TimedOut), server.watch(1.0):
        for each in others:
            each.start()
        if not answered:
            raise TimedOut
    for each in others:
        each.join(30)

    assert results == ["well" if answered else "away"] * 3


def test_look_in_vain_prolongs_the_outage(
    server: CircuitBreaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the next one looks."""
    monkeypatch.setattr(circuit_breaker, "AWAY_SECONDS", 0.0)
    time_out(server)
    monkeypatch.setattr(circuit_breaker, "AWAY_SECONDS", AGES)
    time_out(server)

    with pytest.raises(CircuitOpen):
        ask(server)


def test_any_answer_ends_the_outage(
    server: CircuitBreaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that refuses is there, and keeps nobody waiting."""
    monkeypatch.setattr(circuit_breaker, "AWAY_SECONDS", 0.0)
    time_out(server)
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        ask(server, psycopg.errors.ReadOnlySqlTransaction())

    ask(server)
    ask(server)


def test_one_who_looks_for_long_is_not_the_only_one(
    server: CircuitBreaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A patient claim keeps no delivery from finding out that the server is back."""
    monkeypatch.setattr(circuit_breaker, "AWAY_SECONDS", 0.0)
    monkeypatch.setattr("app.inbox.engine.deadline.SECONDS", 0.0)
    time_out(server)

    with server.watch(1.0):
        ask(server)


def test_old_time_out_does_not_begin_an_outage_again(
    server: CircuitBreaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has waited since before the others were answered tells nothing new."""
    monkeypatch.setattr(circuit_breaker, "AWAY_SECONDS", 0.0)
    with pytest.raises(TimedOut), server.watch(1.0):  # noqa: PT012 - two calls at the same time
        time_out(server)
        ask(server)
        monkeypatch.setattr(circuit_breaker, "AWAY_SECONDS", AGES)
        raise TimedOut

    ask(server)


def test_older_connections_are_suspected(server: CircuitBreaker) -> None:
    """The statement that was not answered tells of those that were there when it began."""
    before = connection_made(monotonic())
    assert not server.suspects(before)
    with pytest.raises(TimedOut), server.watch(1.0):  # noqa: PT012 - made in between
        meanwhile = connection_made(monotonic())
        raise TimedOut

    assert server.suspects(before)
    assert not server.suspects(meanwhile)


def test_connecting_in_vain_suspects_no_connection(server: CircuitBreaker) -> None:
    """Another address may be tried first, which does not answer: what is there goes on."""
    before = connection_made(monotonic())
    time_out(server, psycopg.errors.ConnectionTimeout())

    assert not server.suspects(before)
