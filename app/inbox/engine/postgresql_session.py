"""How a connection to PostgreSQL is made, and the settings that statements need on it.

A pooler in transaction mode (PgBouncer, RDS Proxy, Neon) lends a server connection to each
transaction. It refuses startup options. Settings of a session and prepared statements would reach
other clients, or get lost. So behind a pooler each transaction makes its own settings, and no
statement is prepared. On a direct connection both are kept for the session, which is faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg.pq import PipelineStatus
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

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

#: Milliseconds that sent data may stay unconfirmed.
UNCONFIRMED_MS = 5_000

#: Executions on one connection after which the driver prepares a statement. Preparing saves the
#: server about four fifths of the processor time of a short statement.
PREPARE_THRESHOLD = 5

#: Makes every acknowledged commit durable where the database's default is ``off``. A stronger
#: setting stays. A setting made here does not change when the server reloads its configuration.
COMMIT_SYNCHRONOUSLY = (
    "set_config('synchronous_commit', coalesce("
    "nullif(current_setting('synchronous_commit'), 'off'), 'on'), {local})"
)

#: Begins a transaction. Statements of the inbox decide by rows that other transactions have just
#: changed. Under a stricter isolation level PostgreSQL refuses those with a serialization failure.
BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"

#: Makes the planner read rows in the order of an index. Its estimates can be wrong by a factor of a
#: thousand, and without statistics always are. Then it reads the whole table to find 50 rows.
_READ_IN_ORDER = ", ".join(
    f"set_config('{name}', 'off', true)"
    for name in ("enable_seqscan", "enable_bitmapscan", "enable_sort", "jit")
)

#: SQLAlchemy's dialect for statements with the server's own placeholders. The driver would replace
#: others at every execution, and a statement of a delivery is longer than those whose result the
#: driver keeps.
DIALECT: sa.Dialect = PGDialect_psycopg(  # type: ignore[no-untyped-call] # SQLAlchemy has no types here
    paramstyle="numeric_dollar"
)

#: Connections that the limits of the role, the database and the server still allow.
_CONNECTIONS_LEFT = """
    SELECT least(
        nullif(r.rolconnlimit, -1) - count(*) FILTER (WHERE a.usesysid = r.oid),
        nullif(d.datconnlimit, -1) - count(*) FILTER (WHERE a.datid = d.oid),
        current_setting('max_connections')::int
            - current_setting('superuser_reserved_connections')::int
            - coalesce(current_setting('reserved_connections', true)::int, 0)
            - count(*))
    FROM pg_stat_activity a, pg_roles r, pg_database d
    WHERE a.usesysid IS NOT NULL AND a.datid IS NOT NULL
        AND r.rolname = session_user AND d.datname = current_database()
    GROUP BY r.oid, r.rolconnlimit, d.oid, d.datconnlimit
"""

#: Makes the settings of a session if the connection is direct. A pooler gives its clients another
#: process id than that of the server process: it needs that id to route a request to cancel.
_BEGIN_SESSION = f"""
    SELECT
        pg_backend_pid() <> $1,
        ({_CONNECTIONS_LEFT}) <= 0,
        set_config('default_transaction_isolation', 'read committed', pg_backend_pid() <> $1),
        set_config('lock_timeout', '{LOCK_TIMEOUT_MS}', pg_backend_pid() <> $1),
        {COMMIT_SYNCHRONOUSLY.format(local="pg_backend_pid() <> $1")}
"""

#: Sets the limit of the session's statements, and compares the process ids again: a pooler that
#: passes on the id of the server process may have changed that process since.
_SET_TIMEOUT = """
    SELECT
        pg_backend_pid() <> $1,
        set_config('statement_timeout', $2, pg_backend_pid() <> $1)
"""


def arguments(url: sa.URL) -> dict[str, Any]:
    """Return all arguments of the driver for a connection to ``url``. None is a startup option."""
    _, names = url.get_dialect()().create_connect_args(url)
    return {
        **names,
        "connect_timeout": CONNECT_TIMEOUT,
        "tcp_user_timeout": UNCONFIRMED_MS,
        # A server that vanishes behind an open connection is noticed in seconds, not in hours.
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 2,
        "application_name": "stripe-events",
        # By default the driver encodes text as the database does, and fails on other characters.
        "client_encoding": "utf8",
        "prepare_threshold": None,
    }


def connect(connector: Connector, names: dict[str, Any]) -> Connection:
    """Return a connection that commits each statement. Raises the driver's errors.

    ``names`` are its ``arguments``.
    """
    connection = connector.connect(**names)
    try:
        connection.autocommit = True
        connection.cursor_factory = psycopg.RawCursor  # for the placeholders of ``DIALECT``
        parameters = [connection.info.backend_pid]
        row = connection.execute(_BEGIN_SESSION, parameters).fetchone() or (True, False)
    except BaseException:
        connection.close()
        raise
    connection.is_pooled = bool(row[0])
    if not connection.is_pooled:  # the limits of a pooler are its own, and its clients wait in turn
        connection.is_last = bool(row[1])
        connection.prepare_threshold = PREPARE_THRESHOLD
    return connection


def execute(
    connection: Connection,
    sql: str,
    values: Sequence[Any],
    statement_timeout_ms: int,
    *,
    in_order: bool = False,
) -> Any:
    """Run one statement as one transaction, and return its cursor. Raises the driver's errors.

    ``in_order``: an index has the order that the statement asks for.
    """
    if not connection.is_pooled and connection.statement_timeout_ms != statement_timeout_ms:
        _set_timeout(connection, statement_timeout_ms)
    if connection.is_pooled or in_order:
        more = f", {_READ_IN_ORDER}" if in_order else ""
        return _execute_alone(connection, sql, values, statement_timeout_ms, more)
    return connection.execute(sql, values)


def _set_timeout(connection: Connection, statement_timeout_ms: int) -> None:
    """Set the limit for the session, unless a pooler has changed the server process."""
    parameters = [connection.info.backend_pid, str(statement_timeout_ms)]
    row = connection.execute(_SET_TIMEOUT, parameters).fetchone() or (True,)
    connection.statement_timeout_ms = statement_timeout_ms
    if row[0]:
        connection.is_pooled = True
        connection.prepare_threshold = None


def _execute_alone(
    connection: Connection,
    sql: str,
    values: Sequence[Any],
    statement_timeout_ms: int,
    more: str,
) -> Any:
    """Run the statement between its settings and the commit, in one round trip.

    ``more`` settings are SQL. No setting outlives the transaction.
    A connection that was lost is closed when this raises.
    """
    try:
        with connection.pipeline():
            connection.execute(BEGIN)
            connection.execute(
                f"SELECT set_config('statement_timeout', '{statement_timeout_ms}', true),"
                f" set_config('lock_timeout', '{LOCK_TIMEOUT_MS}', true),"
                f" {COMMIT_SYNCHRONOUSLY.format(local=True)}{more}"
            )
            cursor = connection.execute(sql, values)
            connection.execute("COMMIT")
    except psycopg.OperationalError as error:
        if connection.pgconn.pipeline_status == PipelineStatus.OFF:
            raise
        # The driver replaces the error of a lost connection by one about leaving the pipeline.
        connection.close()
        lost = error.__context__  # or what the caller handles, such as the error of a callback
        raise (lost if isinstance(lost, psycopg.OperationalError) else error) from None
    return cursor
