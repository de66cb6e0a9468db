"""A rate limiter for Stripe's API, shared by all processes of an inbox.

Stripe limits the requests of an account, and those to each endpoint of an account
(https://docs.stripe.com/rate-limits). A request waits for a slot of each. The inbox's database
hands out the slots, so that all processes share one limit. It hands out a small batch at once, so
that most requests need no statement.
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Callable
from urllib.parse import urlsplit

import structlog

from app.errors import InboxUnavailable
from app.inbox.rate_limits import RateLimits

log = structlog.get_logger(__name__)

#: Requests a second to each endpoint with a limit of its own.
PER_ENDPOINT = 25

#: A batch holds the slots of this many seconds. A larger one would make other processes wait for
#: slots that this one does not use.
BATCH_SECONDS = 0.1

#: Seconds without any request after a 429 without ``Retry-After``.
PAUSE_SECONDS = 1.0

#: Seconds at half the rate after the pause.
SLOW_SECONDS = 10.0

#: The maximum pause in seconds, whatever ``Retry-After`` says.
MAX_PAUSE_SECONDS = 60.0

#: Seconds without a try to reserve slots after an outage of the database.
OUTAGE_SECONDS = 5.0

#: A segment of a path that is a word of Stripe's, not an id.
PATH_WORD = re.compile(r"v[1-9]|[a-z_]+")


class RateLimiter:
    """The rate limit of Stripe's API for the threads of this process."""

    def __init__(
        self,
        rate_limits: RateLimits,
        per_second: float,
        *,
        mode: str,
        on_wait: Callable[[float], object] = lambda _seconds: None,
    ) -> None:
        """Take the inbox's API that hands out slots, and the requests a second.

        ``mode`` is ``live`` or ``test``. Stripe counts them apart. ``on_wait`` is called with the
        seconds that a request has waited.
        """
        self._rate_limits = rate_limits
        self._mode = mode
        self._on_wait = on_wait
        self._account = _Bucket(rate_limits, f"{mode} all", per_second)
        self._endpoints: dict[str, _Bucket] = {}
        self._lock = threading.Lock()

    def wait(self, method: str, url: str) -> None:
        """Wait until this request may be made."""
        started = time.monotonic()
        # The scarcer slot first, so that no slot of the account is held while waiting for it.
        self._endpoint(f"{method.upper()} {_template(url)}").take()
        self._account.take()
        self._on_wait(time.monotonic() - started)

    def slow_down(self, retry_after: str | None) -> None:
        """Pause the requests of all processes, and then halve their rate: Stripe answered 429.

        ``retry_after`` is the header of that name. Without one the pause is a second.
        """
        asked = float(retry_after) if retry_after and _is_number(retry_after) else PAUSE_SECONDS
        pause = min(max(asked, PAUSE_SECONDS), MAX_PAUSE_SECONDS)
        log.warning("stripe_rate_limited", pause_seconds=pause)
        self._account.slow_down(pause)

    def _endpoint(self, name: str) -> _Bucket:
        with self._lock:
            if name not in self._endpoints:
                bucket = _Bucket(self._rate_limits, f"{self._mode} {name}", PER_ENDPOINT)
                self._endpoints[name] = bucket
            return self._endpoints[name]


class _Bucket:
    """The slots of one limit. This process holds a few of them. Times are monotonic."""

    def __init__(self, rate_limits: RateLimits, name: str, per_second: float) -> None:
        self._rate_limits = rate_limits
        self._name = name
        self._interval = 1 / per_second
        self._batch = max(1, int(per_second * BATCH_SECONDS))
        self._lock = threading.Lock()
        self._slots: deque[float] = deque()
        self._stale_at = 0.0
        self._slowed = 0
        self._own_free_at = 0.0
        self._retry_at = 0.0

    def take(self) -> None:
        """Wait for a slot. After a ``slow_down`` during the wait, take another one."""
        while True:
            with self._lock:
                slowed, at = self._slowed, self._next()
            time.sleep(max(0.0, at - time.monotonic()))
            if slowed == self._slowed:
                return

    def slow_down(self, pause: float) -> None:
        """Hand out no slot for ``pause`` seconds, in any process."""
        with self._lock:
            self._slowed += 1
            self._slots.clear()
            self._own_free_at = time.monotonic() + pause
            try:
                self._rate_limits.slow_down(self._name, pause=pause, slow=pause + SLOW_SECONDS)
            except InboxUnavailable as error:
                self._note_outage(error)

    def _next(self) -> float:
        """Return the time of the next slot."""
        if not self._slots or time.monotonic() > self._stale_at:
            self._reserve()
        return self._slots.popleft()

    def _reserve(self) -> None:
        begin = time.monotonic()
        delay, interval = self._shared() or self._own(begin)
        self._slots = deque(begin + delay + number * interval for number in range(self._batch))
        # Unused slots expire. Otherwise an idle process could use all of them at once.
        self._stale_at = begin + delay + self._batch * interval

    def _shared(self) -> tuple[float, float] | None:
        """Reserve slots in the database. Returns the seconds to the first, and between two."""
        if time.monotonic() < self._retry_at:
            return None
        try:
            return self._rate_limits.reserve(self._name, self._batch, self._interval)
        except InboxUnavailable as error:
            self._note_outage(error)
            return None

    def _own(self, now: float) -> tuple[float, float]:
        """Reserve slots for this process alone, during an outage of the database."""
        delay = max(0.0, self._own_free_at - now)
        self._own_free_at = now + delay + self._batch * self._interval
        return delay, self._interval

    def _note_outage(self, error: InboxUnavailable) -> None:
        self._retry_at = time.monotonic() + OUTAGE_SECONDS
        log.warning("rate_limiter_not_shared", reason=error.reason)


def _template(url: str) -> str:
    """Return the path of a URL with its ids replaced, as ``/v1/customers/{id}``."""
    parts = urlsplit(url).path.split("/")
    return "/".join(part if not part or PATH_WORD.fullmatch(part) else "{id}" for part in parts)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text) is not None
