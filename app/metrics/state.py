"""The gauges that are read from the inbox at a scrape, by one bounded set of queries."""

from __future__ import annotations

import platform
import threading
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version

import structlog
from prometheus_client import Metric
from prometheus_client.metrics_core import GaugeMetricFamily

from app.errors import InboxUnavailable
from app.inbox.gauges import Gauges
from app.metrics.series import PREFIX

log = structlog.get_logger(__name__)

#: Seconds in which scrapes get the same gauges: several servers may scrape.
CACHE_SECONDS = 5.0


class InboxState:
    """The gauges of the inbox, and of the release. A collector of the library of Prometheus."""

    def __init__(self, read: Callable[[], Gauges], release: str = "") -> None:
        """Take the function that reads the gauges, and the release of the code.

        The function may raise ``InboxUnavailable``.
        """
        self._release = release
        self._read = read
        self._lock = threading.Lock()
        self._gauges: Gauges | None = None
        self._read_at = float("-inf")

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges. Without the inbox, only those that say so."""
        text = "The release and the versions in use; the value is 1."
        build = _gauge("build_info", text, "release", "python", "stripe")
        build.add_metric([self._release, platform.python_version(), version("stripe")], 1)
        yield build
        gauges = self._current()
        is_up = float(gauges is not None)
        yield _single("inbox_up", "1 if the inbox could be read, else 0.", is_up)
        if gauges is not None:
            yield from _inbox_gauges(gauges)

    def _current(self) -> Gauges | None:
        with self._lock:
            if time.monotonic() >= self._read_at + CACHE_SECONDS:
                try:
                    self._gauges = self._read()
                except InboxUnavailable as error:
                    log.warning("inbox_not_measured", reason=error.reason)
                    self._gauges = None
                self._read_at = time.monotonic()
            return self._gauges


def _inbox_gauges(gauges: Gauges) -> Iterator[Metric]:
    events = _gauge("events", "Events in the inbox by state, up to 10,000 each.", "state")
    for state, number in gauges.events.items():
        events.add_metric([state], number)
    yield events
    yield _single(
        "oldest_due_age_seconds",
        "Seconds that the oldest due event has waited for a worker; 0 if none is due.",
        gauges.oldest_due_seconds,
    )
    deliveries = _gauge(
        "last_delivery_timestamp_seconds",
        "Time of the last delivery under each signing secret, by its position.",
        "secret",
    )
    for secret, at in gauges.last_deliveries.items():
        deliveries.add_metric([secret], at)
    yield deliveries
    groups = _gauge(
        "error_group_open",
        "Pending and dead events of the 20 error groups that failed last, up to 1,000 each.",
        *("group", "exception"),
    )
    for group in gauges.groups:
        groups.add_metric([group.fingerprint, group.exception or "unknown"], group.open.number)
    yield groups
    yield from _watched_gauges(gauges)


def _watched_gauges(gauges: Gauges) -> Iterator[Metric]:
    destinations = _gauge(
        "destination_enabled",
        "1 if the event destination is enabled at Stripe, else 0, as the watch saw it last.",
        "destination",
    )
    for destination, is_enabled in gauges.destinations.items():
        destinations.add_metric([destination], float(is_enabled))
    yield destinations
    alerts = _gauge("alerts", "Alerts that are raised, by their name.", "alert")
    for alert, number in gauges.alerts.items():
        alerts.add_metric([alert], number)
    yield alerts


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{PREFIX}_{name}", text, labels=labels)


def _single(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{PREFIX}_{name}", text, value)
