"""PostgreSQL: how it is reached, with a connection of its own for each thread that writes."""

from __future__ import annotations

import threading
import weakref
from typing import Any

import psycopg
import sqlalchemy as sa

#: Seconds to connect: a delivery is answered 503 rather than kept waiting.
CONNECT_TIMEOUT = 2

#: Milliseconds that one statement may take, and that sent data may stay unconfirmed.
STATEMENT_TIMEOUT_MS = 5_000

#: Milliseconds that a statement may wait for a row that somebody else has locked: what waits
#: behind it are the renewals of other leases.
LOCK_TIMEOUT_MS = 1_000


def make_engine(url: sa.URL, *, autocommit: bool) -> sa.Engine:
    """Return an engine that gives up soon on a server that does not answer."""
    limits = f"-c statement_timeout={STATEMENT_TIMEOUT_MS} -c lock_timeout={LOCK_TIMEOUT_MS}"
    arguments = {
        "connect_timeout": CONNECT_TIMEOUT,
        "tcp_user_timeout": STATEMENT_TIMEOUT_MS,
        # A server that vanishes behind an open connection is noticed in seconds, not in hours.
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 2,
        "options": f"{url.query.get('options', '')} {limits}".strip(),
        "application_name": "stripe-events",
    }
    return sa.create_engine(
        url,
        connect_args=arguments,
        isolation_level="AUTOCOMMIT" if autocommit else None,
        # An error's text goes to the log, and a parameter is the body.
        hide_parameters=True,
        max_overflow=-1,
    )


class _Held:
    """The connection of one thread, given back to the pool when the thread has ended."""

    def __init__(self, connection: sa.PoolProxiedConnection) -> None:
        self.connection = connection

    def __del__(self) -> None:
        self.connection.close()


class PostgresqlWriter:
    """Writes from many threads at once.

    The threads of a server are few and live long. A connection of their own saves the pool's
    work at every statement.
    """

    def __init__(self, engine: sa.Engine) -> None:
        """Take the ``engine`` to connect with."""
        self._engine = engine
        self._threads = threading.local()
        self._held: weakref.WeakSet[_Held] = weakref.WeakSet()
        self._statements: dict[sa.Executable, str] = {}

    def execute(
        self,
        statement: sa.Executable,
        parameters: dict[str, Any],
        *,
        durable: bool,  # noqa: ARG002 - every commit of PostgreSQL is
    ) -> tuple[Any, ...] | None:
        """Run one statement, commit it, and return its first row.

        When the connection turns out to be lost, the statement is run once more on a new one,
        so it has to bear being run twice. Raises the driver's error.
        """
        sql = self._prepare(statement)
        held = self._take()
        try:
            return self._execute(held, sql, parameters)
        except psycopg.Error:
            lost = held.connection.driver_connection.closed  # type: ignore[union-attr]  # psycopg's
            # Not only when it is lost: a server that was demoted keeps its connections open.
            self._drop(held)
            if not lost:
                raise
        return self._execute(self._take(), sql, parameters)

    def _prepare(self, statement: sa.Executable) -> str:
        sql = self._statements.get(statement)
        if sql is None:
            sql = self._statements[statement] = _compile(statement, self._engine)
        return sql

    def _take(self) -> _Held:
        held: _Held | None = getattr(self._threads, "held", None)
        if held is None:
            held = self._threads.held = _Held(self._engine.raw_connection())
            self._held.add(held)
        return held

    def _drop(self, held: _Held) -> None:
        self._threads.held = None
        held.connection.invalidate()

    def _execute(self, held: _Held, sql: str, parameters: dict[str, Any]) -> tuple[Any, ...] | None:
        connection: Any = held.connection.driver_connection
        row: tuple[Any, ...] | None = connection.execute(sql, parameters).fetchone()
        return row

    def close(self) -> None:
        """Close the connections of all threads. None of them may be in use."""
        for held in list(self._held):
            held.connection.close()
        self._threads = threading.local()


def _compile(statement: Any, engine: sa.Engine) -> str:
    return str(statement.compile(engine))
