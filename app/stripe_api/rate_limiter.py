"""A budget for Stripe's API: how many requests a second all processes make together.

Stripe counts the requests of an account, and those to each endpoint of an account
(https://docs.stripe.com/rate-limits). A request takes a slot of each of the two, and waits for it.
The slots are handed out by the inbox's database, so that all processes that share an inbox share
the budget, and in small batches, so that it is not asked at every request.
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from urllib.parse import urlsplit

import structlog

from app.errors import InboxUnavailable
from app.inbox import Inbox

log = structlog.get_logger(__name__)

#: Requests a second to each endpoint, where Stripe has a limit of its own.
PER_ENDPOINT = 25

#: Seconds of slots that are reserved at once. Longer would let those wait in vain who get none.
BATCH_SECONDS = 0.1

#: Seconds without any request after a 429 that does not say how long.
PAUSE_SECONDS = 1.0

#: Seconds of half as many requests after the pause.
SLOW_SECONDS = 10.0

#: The longest pause that is believed.
LONGEST_PAUSE = 60.0

#: Seconds for which a database that could not be reached is not asked again.
AWAY_SECONDS = 5.0

#: A part of an address that is a word of Stripe's and not an id.
WORD = re.compile(r"v[1-9]|[a-z_]+")


class RateLimiter:
    """What the threads of this process may ask of Stripe's API."""

    def __init__(self, inbox: Inbox, per_second: float, *, mode: str) -> None:
        """Take the ``inbox`` that hands out slots, and how many requests a second there may be.

        ``mode`` is ``live`` or ``test``: Stripe counts them apart.
        """
        self._inbox = inbox
        self._mode = mode
        self._all = _Bucket(inbox, f"{mode} all", per_second)
        self._endpoints: dict[str, _Bucket] = {}
        self._making = threading.Lock()

    def wait(self, method: str, url: str) -> None:
        """Wait until this request may be made."""
        # The scarcer slot first: one of the others is not held while waiting for it.
        self._endpoint(f"{method.upper()} {_template(url)}").take()
        self._all.take()

    def slow_down(self, retry_after: str | None) -> None:
        """Have all processes wait, and then make half as many requests: Stripe answered 429.

        ``retry_after`` is the header of that name. A pause of a second is made without one.
        """
        asked = float(retry_after) if retry_after and _is_number(retry_after) else PAUSE_SECONDS
        pause = min(max(asked, PAUSE_SECONDS), LONGEST_PAUSE)
        log.warning("stripe_rate_limited", pause_seconds=pause)
        self._all.slow_down(pause)

    def _endpoint(self, name: str) -> _Bucket:
        with self._making:
            if name not in self._endpoints:
                bucket = _Bucket(self._inbox, f"{self._mode} {name}", PER_ENDPOINT)
                self._endpoints[name] = bucket
            return self._endpoints[name]


class _Bucket:
    """One stream of slots, of which this process holds a few. Times are of the monotonic clock."""

    def __init__(self, inbox: Inbox, name: str, per_second: float) -> None:
        self._inbox = inbox
        self._name = name
        self._interval = 1 / per_second
        self._batch = max(1, int(per_second * BATCH_SECONDS))
        self._lock = threading.Lock()
        self._slots: deque[float] = deque()
        self._stale_at = 0.0
        self._slowed = 0
        self._own_free_at = 0.0
        self._away_until = 0.0

    def take(self) -> None:
        """Wait for a slot. One that Stripe's API was slowed down after is taken again."""
        while True:
            with self._lock:
                slowed, at = self._slowed, self._next()
            time.sleep(max(0.0, at - time.monotonic()))
            if slowed == self._slowed:
                return

    def slow_down(self, pause: float) -> None:
        """Let nobody have a slot before the pause is over, here and in all other processes."""
        with self._lock:
            self._slowed += 1
            self._slots.clear()
            self._own_free_at = time.monotonic() + pause
            try:
                self._inbox.rate_limits.slow_down(
                    self._name, pause=pause, slow=pause + SLOW_SECONDS
                )
            except InboxUnavailable as error:
                self._note_away(error)

    def _next(self) -> float:
        """Return when the next slot is."""
        if not self._slots or time.monotonic() > self._stale_at:
            self._reserve()
        return self._slots.popleft()

    def _reserve(self) -> None:
        begin = time.monotonic()
        delay, pace = self._ask() or self._own(begin)
        self._slots = deque(begin + delay + number * pace for number in range(self._batch))
        # What was not used by then would let many go at once.
        self._stale_at = begin + delay + self._batch * pace

    def _ask(self) -> tuple[float, float] | None:
        """Return in how many seconds the next slots begin and how far apart they are, for all."""
        if time.monotonic() < self._away_until:
            return None
        try:
            return self._inbox.rate_limits.reserve(self._name, self._batch, self._interval)
        except InboxUnavailable as error:
            self._note_away(error)
            return None

    def _own(self, now: float) -> tuple[float, float]:
        """Return the same for this process alone, while the database is away."""
        delay = max(0.0, self._own_free_at - now)
        self._own_free_at = now + delay + self._batch * self._interval
        return delay, self._interval

    def _note_away(self, error: InboxUnavailable) -> None:
        self._away_until = time.monotonic() + AWAY_SECONDS
        log.warning("budget_not_shared", reason=error.reason)


def _template(url: str) -> str:
    """Return the path of an address with its ids replaced, as ``/v1/customers/{id}``."""
    parts = urlsplit(url).path.split("/")
    return "/".join(part if not part or WORD.fullmatch(part) else "{id}" for part in parts)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text) is not None
