"""PostgreSQL: how it is reached, with a connection of its own for each thread that writes."""

from __future__ import annotations

import threading
import weakref
from typing import Any, cast

import psycopg
import sqlalchemy as sa

from app.inbox.engine import deadline
from app.inbox.engine.circuit_breaker import CircuitBreaker
from app.inbox.engine.deadline import Connection, Connector

#: Seconds to connect to one address: as few as the driver allows.
CONNECT_TIMEOUT = 2

#: Milliseconds that one statement may take. The server's limits are the shorter ones, so that an
#: answer comes where there is somebody to give it, and its connection is kept.
STATEMENT_TIMEOUT_MS = 1_200
PATIENT_STATEMENT_TIMEOUT_MS = 5_000
READ_STATEMENT_TIMEOUT_MS = 30_000

#: Milliseconds that a statement may wait for a row that somebody else has locked: what waits
#: behind it are the renewals of other leases.
LOCK_TIMEOUT_MS = 1_000

#: Makes every acknowledged commit durable where the database's default is ``off``. A stronger
#: setting stays. A session's own setting does not change when the server reloads its configuration.
_COMMIT_SYNCHRONOUSLY = (
    "SELECT set_config('synchronous_commit', coalesce("
    "nullif(current_setting('synchronous_commit'), 'off'), 'on'), false)"
)

#: Milliseconds that sent data may stay unconfirmed.
UNCONFIRMED_MS = 5_000


def make_engine(
    url: sa.URL,
    outage: CircuitBreaker,
    *,
    autocommit: bool,
    statement_timeout_ms: int = READ_STATEMENT_TIMEOUT_MS,
) -> sa.Engine:
    """Return an engine that gives up soon on a server that does not answer.

    It gives no connection that the ``outage`` suspects.
    """
    timeouts = f"-c statement_timeout={statement_timeout_ms} -c lock_timeout={LOCK_TIMEOUT_MS}"
    arguments = {
        "connect_timeout": CONNECT_TIMEOUT,
        "tcp_user_timeout": UNCONFIRMED_MS,
        # A server that vanishes behind an open connection is noticed in seconds, not in hours.
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 2,
        "options": f"{url.query.get('options', '')} {timeouts}".strip(),
        "application_name": "stripe-events",
    }
    engine = sa.create_engine(
        url,
        connect_args=arguments,
        isolation_level="AUTOCOMMIT" if autocommit else None,
        # An error's text goes to the log, and a parameter is the body.
        hide_parameters=True,
        max_overflow=-1,
    )
    _watch(engine, outage)
    return engine


def _watch(engine: sa.Engine, outage: CircuitBreaker) -> None:
    connector = Connector()

    @sa.event.listens_for(engine, "do_connect")
    def connect(_dialect: object, _record: object, args: Any, names: Any) -> Connection:
        return _pinned(connector.connect(*args, **names))

    @sa.event.listens_for(engine, "checkout")
    def check_out(connection: Connection, _record: object, _proxy: object) -> None:
        if outage.suspects(connection):
            raise sa.exc.InvalidatePoolError  # all of that age are replaced by new ones

    @sa.event.listens_for(engine, "engine_disposed")
    def dispose(_engine: object) -> None:
        connector.close()


def _pinned(connection: Connection) -> Connection:
    connection.autocommit = True  # otherwise a rollback would take the setting back
    try:
        connection.execute(_COMMIT_SYNCHRONOUSLY)
    except BaseException:
        connection.close()
        raise
    connection.autocommit = False  # as the driver gives it, and SQLAlchemy changes it
    return connection


class _Held:
    """The connection of one thread, given back to the pool when the thread has ended."""

    def __init__(self, connection: sa.PoolProxiedConnection) -> None:
        self.connection = connection
        self.is_patient = False

    @property
    def driver(self) -> Connection:
        driver: Any = self.connection.driver_connection
        return cast("Connection", driver)

    def __del__(self) -> None:
        self.connection.close()


class PostgresqlWriter:
    """Writes from many threads at once.

    The threads of a server are few and live long. A connection of their own saves the pool's
    work at every statement.
    """

    def __init__(self, url: sa.URL, outage: CircuitBreaker) -> None:
        """Take the ``url`` to connect to, and what is known of its server."""
        self._outage = outage
        self._engine = make_engine(
            url, outage, autocommit=True, statement_timeout_ms=STATEMENT_TIMEOUT_MS
        )
        self._threads = threading.local()
        self._held: weakref.WeakSet[_Held] = weakref.WeakSet()
        self._statements: dict[sa.Executable, str] = {}

    def execute(
        self, statement: sa.Executable, parameters: dict[str, Any], *, slow_ok: bool = False
    ) -> tuple[Any, ...] | None:
        """Run one statement, commit it, and return its first row.

        It ends within seconds, whatever the server does; ``patient`` gives it some more. When the
        connection turns out to be lost, the statement is run once more on a new one, so it has to
        bear being run twice. One that was not answered in time is not, but the server may run it
        whenever it comes round (see ``statements``). Raises the driver's error.
        """
        sql = self._prepare(statement)
        with self._outage.watch(deadline.PATIENT_SECONDS if slow_ok else deadline.SECONDS):
            held = self._take()
            try:
                return self._execute(held, sql, parameters, slow_ok=slow_ok)
            except psycopg.Error as error:
                lost = held.driver.closed
                # Not only when it is lost: a demoted server keeps its connections open.
                self._drop(held)
                if not lost or isinstance(error, deadline.TimedOut):
                    raise
            return self._execute(self._take(), sql, parameters, slow_ok=slow_ok)

    def _prepare(self, statement: sa.Executable) -> str:
        sql = self._statements.get(statement)
        if sql is None:
            sql = self._statements[statement] = _compile(statement, self._engine)
        return sql

    def _take(self) -> _Held:
        held: _Held | None = getattr(self._threads, "held", None)
        if held is not None and self._outage.suspects(held.driver):
            self._drop(held)
            held = None
        if held is None:
            held = self._threads.held = _Held(self._engine.raw_connection())
            self._held.add(held)
        return held

    def _drop(self, held: _Held) -> None:
        self._threads.held = None
        held.connection.invalidate()

    def _execute(
        self, held: _Held, sql: str, parameters: dict[str, Any], *, slow_ok: bool
    ) -> tuple[Any, ...] | None:
        connection = held.driver
        if slow_ok and not held.is_patient:
            # Once for all: who claims for workers answers no deliveries, and for all other
            # statements of the thread the limit on this side is the shorter one still.
            connection.execute(f"SET statement_timeout = {PATIENT_STATEMENT_TIMEOUT_MS}")
            held.is_patient = True
        cursor = connection.execute(sql, parameters)
        row: tuple[Any, ...] | None = cursor.fetchone() if cursor.description else None
        return row

    def close(self) -> None:
        """Close the connections of all threads. None of them may be in use."""
        for held in list(self._held):
            held.connection.close()
        self._threads = threading.local()
        self._engine.dispose()


def _compile(statement: Any, engine: sa.Engine) -> str:
    return str(statement.compile(engine))
