"""A connection to PostgreSQL for statements that take long and cannot run in a transaction.

``CREATE INDEX CONCURRENTLY`` is one: it waits for all transactions that use its table.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from app.inbox.engine import deadline

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


@contextmanager
def unlimited(pool: sa.Engine, purpose: str, *, waits: bool) -> Iterator[sa.Connection | None]:
    """Hold the lock of the ``purpose``, and give a connection that commits each statement.

    Without ``waits`` it gives None if another process has the lock. A transaction on a connection
    of its own has the lock: a lock of the session is no lock behind a pooler. It holds no snapshot,
    for which a statement in the block would wait.
    """
    with pool.connect() as guard, pool.connect() as connection, deadline.within(math.inf):
        while not guard.execute(_TRY_LOCK, {"purpose": purpose}).scalar():
            if not waits:
                yield None
                return
            # A statement that waits for a lock has a snapshot, and the holder would wait for that.
            guard.rollback()
            time.sleep(POLL_SECONDS)
        guard.execute(_NO_LIMITS, {"pid": 0})  # until the end of the transaction
        # A statement with parameters keeps its snapshot until the next one, and the build would
        # wait for that.
        guard.exec_driver_sql("SELECT 1")
        connection.execution_options(isolation_level="AUTOCOMMIT")
        driver: Any = connection.connection.driver_connection
        connection.execute(_NO_LIMITS, {"pid": driver.info.backend_pid})
        yield connection
