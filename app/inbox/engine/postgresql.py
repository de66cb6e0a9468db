"""Runs statements on PostgreSQL over the connections that the threads of a process share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeVar, cast

import psycopg
import sqlalchemy as sa
from sqlalchemy.engine import IteratorResult
from sqlalchemy.engine.result import SimpleResultMetaData

from app.inbox.engine import deadline, limits
from app.inbox.engine import postgresql_session as session
from app.inbox.engine.circuit_breaker import CircuitBreaker
from app.inbox.engine.connection_pool import ConnectionPool
from app.inbox.engine.deadline import Connection, Connector
from app.inbox.row_for_each import RowForEach

T = TypeVar("T")

_NO_OPTIONS: Mapping[str, Any] = {}

#: The result of a statement that lost a race against another one.
_LOST: Final = ("lost",)

#: Runs of a statement that loses its races. Each time another statement has succeeded.
MAX_RACES = 50

#: Compiled statements that a process keeps. The inbox has about 150. To compile one takes longer
#: than to run it. Lists with filters are new statements each time. They are never found again, and
#: the least recently used entries make room for them.
MAX_COMPILED = 256


class _Query(NamedTuple):
    """One execution: the SQL, and the values of its parameters."""

    sql: str
    values: Sequence[Any]


class PostgresqlStatements:
    """Runs statements from many threads at once.

    SQLAlchemy compiles each statement, and the driver runs it. Under SQLAlchemy's pool a short
    statement took nearly twice the processor time.
    """

    def __init__(self, url: sa.URL, breaker: CircuitBreaker, schema: str | None = None) -> None:
        """Take the ``url`` to connect to, and the circuit ``breaker`` of its server.

        The tables of the statements are in the ``schema``, as ``use_schema`` describes.
        """
        self._breaker = breaker
        self._arguments = session.arguments(url)
        self._connector = Connector()
        self.pool = ConnectionPool(self._connect, breaker)
        """The connections."""
        self.use_schema(schema)

    def use_schema(self, schema: str | None) -> None:
        """Qualify the tables of all statements with this ``schema``. None: with none."""
        self._schema = schema

    def _connect(self) -> Connection:
        return session.connect(self._connector, self._arguments)

    def execute(
        self, statement: sa.Executable, parameters: dict[str, Any], *, slow_ok: bool = False
    ) -> tuple[Any, ...] | None:
        """Run one writing statement, commit it, and return its first row.

        It ends after ``limits.SECONDS`` at the latest, or ``deadline.SLOW_SECONDS`` if
        ``slow_ok``. With the execution option ``in_order``, the planner reads rows in the order of
        an index. When its connection is lost it runs once more on another one, as its execution
        options allow (``app.inbox.sql``). A statement that timed out does not run again here, but
        the server may still run it at any time later. Raises the driver's error.
        """
        seconds, limit = limits.SECONDS, session.STATEMENT_TIMEOUT_MS
        if slow_ok:
            seconds, limit = deadline.SLOW_SECONDS, session.SLOW_STATEMENT_TIMEOUT_MS
        options = statement.get_execution_options()
        fetch = _every_row if options.get("all_rows") else _first_row
        query = self._query(statement, parameters)
        result = options.get("result")
        recorded = None if result is None else self._query(result, parameters)
        for _ in range(MAX_RACES):
            row = self._run(query, seconds, limit, fetch, options=options, recorded=recorded)
            if row is not _LOST:
                return row
        return None

    def read(
        self, statement: sa.Executable, parameters: dict[str, Any], seconds: float
    ) -> list[sa.Row[Any]]:
        """Run one reading statement within ``seconds``, and return all rows.

        With the execution option ``in_order``, the planner reads rows in the order of an index.
        When its connection is lost it runs once more. Raises the driver's error.
        """
        state = _compile(statement, self._schema).construct_expanded_state(parameters)
        is_short = seconds <= limits.SECONDS
        limit = session.STATEMENT_TIMEOUT_MS if is_short else session.READ_STATEMENT_TIMEOUT_MS
        options = statement.get_execution_options()
        query = _Query(state.statement, state.positional_parameters)
        return self._run(query, seconds, limit, _all_rows, options=options)

    def _query(self, statement: sa.Executable, parameters: Mapping[str, Any]) -> _Query:
        compiled = _compile(statement, self._schema)
        return _Query(compiled.string, [parameters[name] for name in compiled.positiontup])

    def _run(  # noqa: PLR0913 - a writing statement has options
        self,
        query: _Query,
        seconds: float,
        statement_timeout_ms: int,
        fetch: Callable[[Any], T],
        *,
        options: Mapping[str, Any] = _NO_OPTIONS,
        recorded: _Query | None = None,
    ) -> T:
        """Run a ``query``. If its connection is lost, first ask for what it has ``recorded``."""

        def run(connection: Connection, query: _Query) -> T:
            in_order = options.get("in_order", False)
            return fetch(
                session.execute(connection, *query, statement_timeout_ms, in_order=in_order)
            )

        self._connector.close_stale()
        with self._breaker.watch(seconds):
            with self.pool.connection(statement_timeout_ms) as connection:
                try:
                    return run(connection, query)
                except psycopg.Error as error:
                    if isinstance(error, psycopg.errors.UniqueViolation) and options.get("races"):
                        connection.rollback()  # behind a pooler a transaction is open
                        return cast("T", _LOST)
                    is_lost = connection.closed and not isinstance(error, deadline.TimedOut)
                    if not is_lost or not options.get("repeatable", True):
                        raise
            self.pool.clear()  # the idle connections were lost too
            with self.pool.connection(statement_timeout_ms) as connection:
                found = None if recorded is None else run(connection, recorded)
                return found or run(connection, query)

    def close(self) -> None:
        """Close all connections. None of them may be in use."""
        self.pool.clear()
        self._connector.close()


@lru_cache(MAX_COMPILED)
def _compile(statement: Any, schema: str | None) -> Any:
    """Compile a statement, once in the process, with all tables in the ``schema``.

    The threads share the result, and nothing changes it.
    """
    names = {"schema_translate_map": {None: schema}, "render_schema_translate": True}
    also: RowForEach | None = statement.get_execution_options().get("also")
    if also is not None:
        statement = also.with_change(statement)
    return statement.compile(dialect=session.DIALECT, **(names if schema else {}))


def _first_row(cursor: Any) -> tuple[Any, ...] | None:
    row: tuple[Any, ...] | None = cursor.fetchone() if cursor.description else None
    return row


def _every_row(cursor: Any) -> tuple[Any, ...]:
    return tuple(cursor.fetchall())


def _all_rows(cursor: Any) -> list[sa.Row[Any]]:
    names = SimpleResultMetaData([column.name for column in cursor.description])
    result: sa.Result[Any] = IteratorResult(names, iter(cursor.fetchall()))
    return list(result.all())


def make_migration_engine(url: sa.URL) -> sa.Engine:
    """Return SQLAlchemy's engine for a migration. It connects within the caller's deadline."""
    engine = sa.create_engine(
        url,
        isolation_level="READ COMMITTED",
        # An error's text goes to the log, and a parameter is the body.
        hide_parameters=True,
        # By default it asks for this type at its first connection, in three round trips.
        use_native_hstore=False,
    )
    connector = Connector()
    names = session.arguments(url)

    @sa.event.listens_for(engine, "do_connect")
    def connect(*_arguments: object) -> Connection:
        return connector.connect(**names)

    @sa.event.listens_for(engine, "engine_disposed")
    def dispose(_engine: object) -> None:
        connector.close()

    return engine
