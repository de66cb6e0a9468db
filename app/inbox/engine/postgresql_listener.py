"""Waits for notifications of PostgreSQL, on a connection of its own."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from contextlib import closing
from time import monotonic

import psycopg
import sqlalchemy as sa
import structlog

from app.inbox.engine import limits
from app.inbox.engine import postgresql_session as session
from app.inbox.engine.circuit_breaker import CircuitBreaker
from app.inbox.engine.connection_pool import ConnectionPool, is_refusal
from app.inbox.engine.deadline import Connection, Connector

log = structlog.get_logger(__name__)

#: Seconds between two checks of whether a listener is to stop.
LISTEN_SECONDS = 0.5

#: Seconds after which a listener probes its connection: a lost one is silent like an idle one.
PROBE_SECONDS = 10.0

#: Seconds in which a notification has to arrive during a check.
CHECK_SECONDS = 2.0


class PostgresqlListener:
    """Listens on a direct connection.

    A notification reaches a session, and a pooler in transaction mode gives its clients no session.
    While connections are scarce, the listener leaves its own to the statements. In both cases there
    are no notifications, and workers find events by polling.
    """

    def __init__(self, url: sa.URL, breaker: CircuitBreaker, *, is_own_url: bool) -> None:
        """Take the ``url`` to listen at, and the circuit ``breaker`` of its server.

        ``is_own_url``: a setting names this URL as direct. Some proxies hide the process id of the
        server process, as a pooler does, and still keep the session.
        """
        self._is_own_url = is_own_url
        self._arguments = session.arguments(url)
        self._breaker = breaker

    def listen(
        self,
        channel: str,
        act: Callable[[], object],
        stopping: threading.Event,
        pool: ConnectionPool,
    ) -> None:
        """Call ``act`` at each notification on the ``channel``, until ``stopping``.

        ``pool`` holds the other connections of this process. Raises the driver's errors.
        """
        while not stopping.is_set():
            connection = None if pool.is_scarce else self._connect(pool)
            if connection is None:
                stopping.wait(LISTEN_SECONDS)
                continue
            with closing(connection):
                if self._has_no_session(connection):
                    log.warning("listener_behind_pooler")
                    stopping.wait()
                    return
                self._listen(connection, channel, act, lambda: stopping.is_set() or pool.is_scarce)

    def _connect(self, pool: ConnectionPool) -> Connection | None:
        """Return a connection, or None if another process needs it more."""
        try:
            connection = self._open()
        except psycopg.OperationalError as error:
            if not is_refusal(error):
                raise
            pool.note_scarcity()
            return None
        if connection.is_last:
            connection.close()
            pool.note_scarcity()
            return None
        return connection

    def _open(self) -> Connection:
        connector = Connector()
        try:
            with self._breaker.watch(limits.SECONDS):
                return session.connect(connector, self._arguments)
        finally:
            connector.close()

    def find_fault(self, notify: Callable[[str], object]) -> str | None:
        """Return why notifications do not arrive, or None. Raises the driver's errors.

        ``notify`` sends a notification to a channel, as other processes do.
        """
        with closing(self._open()) as connection:
            if self._has_no_session(connection):
                return "a pooler is in between"
            channel = f"check_{uuid.uuid4().hex}"
            self._run_watched(connection, f"LISTEN {channel}")
            notify(channel)
            arrived = list(connection.notifies(timeout=CHECK_SECONDS, stop_after=1))
        return None if arrived else "DATABASE_LISTEN_URL names a pooler or another database"

    def _has_no_session(self, connection: Connection) -> bool:
        return connection.is_pooled and not self._is_own_url

    def _listen(
        self,
        connection: Connection,
        channel: str,
        act: Callable[[], object],
        is_over: Callable[[], bool],
    ) -> None:
        self._run_watched(connection, f"LISTEN {channel}")
        probed_at = monotonic()
        while not is_over():
            for _ in connection.notifies(timeout=LISTEN_SECONDS, stop_after=1):
                act()
            if monotonic() > probed_at + PROBE_SECONDS:
                self._run_watched(connection, "SELECT 1")
                probed_at = monotonic()

    def _run_watched(self, connection: Connection, sql: str) -> None:
        with self._breaker.watch(limits.SECONDS):
            connection.execute(sql)
