"""PostgreSQL: its connections, their settings, and how statements are written over them."""

from __future__ import annotations

from typing import Any

import psycopg
import sqlalchemy as sa

from app.inbox.engine import deadline
from app.inbox.engine.circuit_breaker import CircuitBreaker
from app.inbox.engine.connection_pool import ConnectionPool
from app.inbox.engine.deadline import Connection, Connector

#: Seconds to connect to one address: the driver's minimum.
CONNECT_TIMEOUT = 2

#: Milliseconds for one statement, counted by the server. Each is shorter than the deadline on this
#: side, so that the server's own error arrives instead of a time-out, which would open the circuit.
STATEMENT_TIMEOUT_MS = 1_200
SLOW_STATEMENT_TIMEOUT_MS = 5_000
READ_STATEMENT_TIMEOUT_MS = 30_000

#: Milliseconds that a statement may wait for a locked row. Renewals of other leases wait behind it.
LOCK_TIMEOUT_MS = 1_000

#: Makes every acknowledged commit durable where the database's default is ``off``. A stronger
#: setting stays. A session's own setting does not change when the server reloads its configuration.
_COMMIT_SYNCHRONOUSLY = (
    "SELECT set_config('synchronous_commit', coalesce("
    "nullif(current_setting('synchronous_commit'), 'off'), 'on'), false)"
)

#: Milliseconds that sent data may stay unconfirmed.
UNCONFIRMED_MS = 5_000


def _arguments(url: sa.URL, statement_timeout_ms: int) -> dict[str, Any]:
    """Return the arguments of a connection that the ``url`` does not hold."""
    timeouts = f"-c statement_timeout={statement_timeout_ms} -c lock_timeout={LOCK_TIMEOUT_MS}"
    return {
        "connect_timeout": CONNECT_TIMEOUT,
        "tcp_user_timeout": UNCONFIRMED_MS,
        # A server that vanishes behind an open connection is noticed in seconds, not in hours.
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 2,
        "options": f"{url.query.get('options', '')} {timeouts}".strip(),
        "application_name": "stripe-events",
    }


def make_sqlalchemy_engine(url: sa.URL, breaker: CircuitBreaker, *, autocommit: bool) -> sa.Engine:
    """Return an engine for reads, or for a migration if not ``autocommit``.

    It connects within the caller's deadline. It replaces connections that the ``breaker`` suspects.
    """
    engine = sa.create_engine(
        url,
        connect_args=_arguments(url, READ_STATEMENT_TIMEOUT_MS),
        isolation_level="AUTOCOMMIT" if autocommit else None,
        # An error's text goes to the log, and a parameter is the body.
        hide_parameters=True,
        max_overflow=-1,
    )
    connector = Connector()

    @sa.event.listens_for(engine, "do_connect")
    def connect(_dialect: object, _record: object, args: Any, names: Any) -> Connection:
        return _commit_synchronously(connector.connect(*args, **names))

    @sa.event.listens_for(engine, "checkout")
    def check_out(connection: Connection, _record: object, _proxy: object) -> None:
        if breaker.suspects(connection):
            raise sa.exc.InvalidatePoolError  # replaces all connections of that age

    @sa.event.listens_for(engine, "engine_disposed")
    def dispose(_engine: object) -> None:
        connector.close()

    return engine


def _commit_synchronously(connection: Connection) -> Connection:
    connection.autocommit = True  # a rollback would undo the setting
    try:
        connection.execute(_COMMIT_SYNCHRONOUSLY)
    except BaseException:
        connection.close()
        raise
    connection.autocommit = False  # the driver's default, which SQLAlchemy expects
    return connection


class PostgresqlWriter:
    """Writes from many threads at once, over connections that they share.

    SQLAlchemy compiles each statement once, and the driver runs it. Under SQLAlchemy's pool a short
    statement took nearly twice the processor time.
    """

    def __init__(self, url: sa.URL, breaker: CircuitBreaker, schema: str | None = None) -> None:
        """Take the ``url`` to connect to, and the circuit ``breaker`` of its server.

        The tables of the statements are in the ``schema``, or where ``search_path`` finds them.
        """
        self._breaker = breaker
        self._schema = schema
        self._dialect = url.get_dialect()()
        _, names = self._dialect.create_connect_args(url)
        self._arguments = {**names, **_arguments(url, STATEMENT_TIMEOUT_MS)}
        self._connector = Connector()
        self._pool = ConnectionPool(self._connect, breaker)
        self._statements: dict[sa.Executable, str] = {}

    def _connect(self) -> Connection:
        connection = _commit_synchronously(self._connector.connect(**self._arguments))
        connection.autocommit = True
        connection.statement_timeout_ms = STATEMENT_TIMEOUT_MS
        return connection

    def execute(
        self, statement: sa.Executable, parameters: dict[str, Any], *, slow_ok: bool = False
    ) -> tuple[Any, ...] | None:
        """Run one statement, commit it, and return its first row.

        It ends after ``deadline.SECONDS`` at the latest, or ``deadline.SLOW_SECONDS`` if
        ``slow_ok``. When its connection is lost it runs once more on another one, so it has to be
        idempotent. A statement that timed out does not run again here, but the server may still run
        it at any time later. Raises the driver's error.
        """
        sql = self._statements.get(statement)
        if sql is None:
            sql = self._statements[statement] = _compile(statement, self._dialect, self._schema)
        limit = SLOW_STATEMENT_TIMEOUT_MS if slow_ok else STATEMENT_TIMEOUT_MS
        with self._breaker.watch(deadline.SLOW_SECONDS if slow_ok else deadline.SECONDS):
            with self._pool.connection(limit) as connection:
                try:
                    return _execute(connection, sql, parameters, limit)
                except psycopg.Error as error:
                    if not connection.closed or isinstance(error, deadline.TimedOut):
                        raise
            self._pool.clear()  # the idle connections were lost too
            with self._pool.connection(limit) as connection:
                return _execute(connection, sql, parameters, limit)

    def close(self) -> None:
        """Close all connections. None of them may be in use."""
        self._pool.clear()
        self._connector.close()


def _execute(
    connection: Connection, sql: str, parameters: dict[str, Any], statement_timeout_ms: int
) -> tuple[Any, ...] | None:
    if connection.statement_timeout_ms != statement_timeout_ms:
        connection.execute(f"SET statement_timeout = {statement_timeout_ms}")
        connection.statement_timeout_ms = statement_timeout_ms
    cursor = connection.execute(sql, parameters)
    row: tuple[Any, ...] | None = cursor.fetchone() if cursor.description else None
    return row


def _compile(statement: Any, dialect: Any, schema: str | None) -> str:
    names = {"schema_translate_map": {None: schema}, "render_schema_translate": True}
    return str(statement.compile(dialect=dialect, **(names if schema else {})))
