"""Whether PostgreSQL counts as away, so that not everybody waits for it to find that out."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

import psycopg

from app.inbox.engine import deadline

#: Seconds after a time-out in which nobody asks the server again.
AWAY_SECONDS = 0.5

#: Seconds for which the others wait for what comes of a look, from its beginning. A server that
#: is back answers much sooner, and then none of them fails.
HOPE_SECONDS = 0.25


class CircuitOpen(psycopg.OperationalError):
    """The server was not asked: it has just not answered somebody else."""


class CircuitBreaker:
    """What the threads of a process know of their server.

    A thread that waits in vain is lost to all requests that queue up behind it. So after one
    time-out all calls fail at once, and every now and then one of them is let through to look,
    for which the others wait a moment.
    Whatever the server says to it, an error too, ends the outage. Only time-outs begin one: what
    fails at once, such as a refused connection, holds up nobody.
    """

    def __init__(self) -> None:
        """Begin with a server that is well."""
        self._changed = threading.Condition()
        self._is_away = False
        self._next_look = 0.0
        self._hope_until = 0.0
        self._well_since = -math.inf
        self._suspected = -math.inf

    def suspects(self, connection: deadline.Connection) -> bool:
        """Whether the connection is older than the last statement that was not answered.

        The server may have forgotten it, or a firewall on the way: each would cost a time-out
        of its own.
        """
        return connection.made < self._suspected

    @contextmanager
    def watch(self, seconds: float) -> Iterator[None]:
        """Have the block end ``within`` so many seconds, and see whether the server answers it.

        Raises ``Away`` instead of entering it during an outage.
        """
        begun = self._enter()
        try:
            with deadline.within(seconds):
                yield
        except Exception as error:
            self._judge(getattr(error, "orig", error), begun)  # SQLAlchemy's hold the driver's
            raise
        else:
            self._end()

    def _enter(self) -> float:
        with self._changed:
            if self._is_away:
                now = monotonic()
                if now >= self._next_look:
                    self._hope_until = now + HOPE_SECONDS
                    # If this one waits for long, it is not the only one to look.
                    self._next_look = now + deadline.SECONDS + AWAY_SECONDS
                else:
                    self._hope()
        return monotonic()

    def _hope(self) -> None:
        self._changed.wait_for(
            lambda: not self._is_away or monotonic() >= self._hope_until,
            self._hope_until - monotonic(),
        )
        if self._is_away:
            raise CircuitOpen("PostgreSQL has just not answered in time")

    def _judge(self, error: BaseException, begun: float) -> None:
        if not isinstance(error, (deadline.TimedOut, psycopg.errors.ConnectionTimeout)):
            self._end()
            return
        with self._changed:
            if isinstance(error, deadline.TimedOut):
                # What was made after that has been answered since.
                self._suspected = max(self._suspected, begun)
            if begun >= self._well_since:  # otherwise somebody was answered meanwhile
                self._is_away = True
                self._next_look = monotonic() + AWAY_SECONDS
                self._hope_until = 0.0
                self._changed.notify_all()

    def _end(self) -> None:
        with self._changed:
            if self._is_away:
                self._is_away = False
                self._well_since = monotonic()
                self._changed.notify_all()
