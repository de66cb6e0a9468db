"""Spreads kills over deliveries, so that a test has the same number of each on every machine."""

from __future__ import annotations

import threading

from tests.support.waiting import wait_for


class Pace:
    """Keeps kills and deliveries in step."""

    def __init__(self, *, kills: int, deliveries: int) -> None:
        """Take the number of both. The last kill may not happen."""
        self._ratio = kills / deliveries
        self._delivered = 0
        self.killed = 0
        """The number of kills so far. The test adds to it."""
        self.over = threading.Event()
        """Set when all is delivered, or when the test failed."""

    def wait_to_deliver(self, number: int) -> None:
        """Wait until delivery ``number``, counted from 0, may begin.

        Fails after two minutes without the next kill.
        """
        self._delivered = max(number, self._delivered)
        wait_for(lambda: self.killed >= int(number * self._ratio) or self.over.is_set())

    def wait_to_kill(self, seconds: float) -> bool:
        """Wait so many seconds, and until a kill may follow. Return False if all is over."""
        while not self.over.wait(seconds):
            if self.killed <= self._delivered * self._ratio:
                return True
            seconds = 0.01
        return False
