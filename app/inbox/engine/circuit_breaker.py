"""A circuit breaker: after one time-out, calls to PostgreSQL fail at once instead of waiting."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

import psycopg

from app.inbox.engine import deadline, limits

#: Seconds for which the circuit stays open after a time-out, until a call may probe the server.
OPEN_SECONDS = 0.5

#: Seconds, from the start of a probe, for which other calls wait for its result. A server that is
#: back answers much sooner, and then none of these calls fails.
PROBE_WAIT_SECONDS = 0.25


class CircuitOpen(psycopg.OperationalError):
    """The call failed without asking the server, which did not answer another call in time."""


class CircuitBreaker:
    """Stops calls to a server that does not answer. The threads of a process share one.

    A thread that waits for a hung server delays all requests behind it. So a time-out opens the
    circuit: calls fail at once. After ``OPEN_SECONDS`` the circuit is half-open: one call goes
    through as a probe, and the other calls wait a moment for its result. An answer closes the
    circuit, and so does an error that the server reports. A refused connection opens nothing: it
    delays no call.
    """

    def __init__(self) -> None:
        """Start with a closed circuit."""
        self._changed = threading.Condition()
        self._is_open = False
        self._next_probe = 0.0
        self._wait_until = 0.0
        self._closed_at = -math.inf
        self._unanswered_since = -math.inf

    def suspects(self, connection: deadline.Connection) -> bool:
        """Return whether the ``connection`` is older than the last unanswered statement.

        The server or a firewall may have dropped it. Each such connection would cost a time-out.
        """
        return connection.connected_at < self._unanswered_since

    @contextmanager
    def watch(self, seconds: float) -> Iterator[None]:
        """Run the block with a deadline in ``seconds``, and learn from its result.

        Raises ``CircuitOpen`` without running the block while the circuit is open.
        """
        started = self._enter()
        try:
            with deadline.within(seconds):
                yield
        except Exception as error:
            self._learn(getattr(error, "orig", error), started)  # SQLAlchemy wraps the driver's
            raise
        else:
            self._close()

    def _enter(self) -> float:
        """Return the time at which the call starts, as a probe if one is due."""
        with self._changed:
            if self._is_open:
                now = monotonic()
                if now >= self._next_probe:
                    self._wait_until = now + PROBE_WAIT_SECONDS
                    # A probe can be a slow claim: another call may probe before it ends.
                    self._next_probe = now + limits.SECONDS + OPEN_SECONDS
                else:
                    self._wait_for_probe()
        return monotonic()

    def _wait_for_probe(self) -> None:
        self._changed.wait_for(
            lambda: not self._is_open or monotonic() >= self._wait_until,
            self._wait_until - monotonic(),
        )
        if self._is_open:
            raise CircuitOpen("PostgreSQL did not answer another call in time")

    def _learn(self, error: BaseException, started: float) -> None:
        if not isinstance(error, (deadline.TimedOut, psycopg.errors.ConnectionTimeout)):
            self._close()
            return
        with self._changed:
            if isinstance(error, deadline.TimedOut):
                # Connections that were made after the start were answered since.
                self._unanswered_since = max(self._unanswered_since, started)
            if started >= self._closed_at:  # a later answer to another call is newer information
                self._is_open = True
                self._next_probe = monotonic() + OPEN_SECONDS
                self._wait_until = 0.0
                self._changed.notify_all()

    def _close(self) -> None:
        with self._changed:
            if self._is_open:
                self._is_open = False
                self._closed_at = monotonic()
                self._changed.notify_all()
