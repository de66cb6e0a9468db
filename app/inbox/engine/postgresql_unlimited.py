"""A connection to PostgreSQL for statements that take long and cannot run in a transaction.

``CREATE INDEX CONCURRENTLY`` is one: it waits for all transactions that use its table.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import sqlalchemy as sa

from app.inbox.engine import deadline
from app.inbox.engine.errors import unavailable
from app.inbox.engine.postgresql import make_migration_engine

#: Seconds between two tries to get the lock.
POLL_SECONDS = 0.2

#: A server has those of its version. Zero is no limit. Behind a pooler the setting ends with the
#: statement, because the session goes to another client: there the limits of the role apply.
_NO_LIMITS = sa.text(
    "SELECT set_config(name, '0', pg_backend_pid() <> :pid) FROM pg_settings WHERE name IN"
    " ('statement_timeout', 'lock_timeout', 'transaction_timeout',"
    " 'idle_in_transaction_session_timeout')"
)

_TRY_LOCK = sa.text("SELECT pg_try_advisory_xact_lock(hashtext(:purpose))")


class UnlimitedConnections:
    """Implements ``interface.Unlimited``."""

    def __init__(self, url: sa.URL) -> None:
        """Take the ``url`` of the database."""
        self._url = url

    @contextmanager
    def connect(self, purpose: str, *, waits: bool) -> Iterator[sa.Connection | None]:
        """Hold the lock of the ``purpose``, and give a connection that commits each statement.

        Without ``waits`` it gives None if another process has the lock. A transaction on another
        connection has the lock: a lock of the session is no lock behind a pooler.
        """
        pool = make_migration_engine(self._url)
        try:
            with pool.connect() as guard, pool.connect() as connection, deadline.within(math.inf):
                has_lock = _lock(guard, purpose, waits=waits)
                if has_lock:
                    connection.execution_options(isolation_level="AUTOCOMMIT")
                    driver: Any = connection.connection.driver_connection
                    connection.execute(_NO_LIMITS, {"pid": driver.info.backend_pid})
                yield connection if has_lock else None
        except (sa.exc.DBAPIError, psycopg.Error, OSError) as error:
            raise unavailable(error) from error
        finally:
            pool.dispose()


def _lock(guard: sa.Connection, purpose: str, *, waits: bool) -> bool:
    """Take the lock of the ``purpose`` until the end of the transaction, and return True.

    False if another process has it and not ``waits``. The transaction then holds no snapshot: a
    build would wait for its end.
    """
    while not guard.execute(_TRY_LOCK, {"purpose": purpose}).scalar():
        if not waits:
            return False
        # A statement that waits for a lock has a snapshot.
        guard.rollback()
        time.sleep(POLL_SECONDS)
    guard.execute(_NO_LIMITS, {"pid": 0})
    # A statement with parameters keeps its snapshot until the next one.
    guard.exec_driver_sql("SELECT 1")
    return True
