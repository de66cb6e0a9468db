"""The series that each process counts. Importing this module loads the library of Prometheus.

``app.metrics.shared`` decides before that whether the values are in files that several processes
share. ``docs/metrics.md`` explains each series.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

PREFIX = "stripe_receiver"

HELP = {
    "deliveries": "Deliveries by outcome and event type.",
    "rejections": "Requests that were rejected, by reason.",
    "attempts": "Attempts whose callback ended, by event type and outcome.",
    "not_run": "Events that became done without a run, by event type and outcome.",
    "stripe_requests": "Requests to Stripe's API by HTTP status.",
    "lease_losses": "Claims that another attempt took over while their callback ran.",
    "reconcile_missing": "Events that Stripe had and the inbox lacked, and that were backfilled.",
    "delivery_duration_seconds": "Seconds from a delivery to its answer.",
    "attempt_duration_seconds": "Seconds that a callback ran.",
    "rate_limit_wait_seconds": "Seconds that a request to Stripe waited for the rate limiter.",
    "worker_threads": "Worker threads by state, of all live processes.",
}

#: Upper bounds of the buckets in seconds. Stripe waits about 20 s for the answer to a delivery.
DELIVERY_BUCKETS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20)
ATTEMPT_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
WAIT_BUCKETS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class _Children(dict[tuple[str, ...], Counter]):
    """The counters of one metric by their labels. ``Counter.labels`` takes a lock each time."""

    def __init__(self, metric: Counter) -> None:
        super().__init__()
        self._metric = metric

    def __missing__(self, labels: tuple[str, ...]) -> Counter:
        child = self[labels] = self._metric.labels(*labels)
        return child


class Series:
    """The series of this process, in ``registry``. All threads may use it."""

    def __init__(self) -> None:
        """Begin with 0."""
        self.registry = CollectorRegistry()
        self._deliveries = _Children(self._counter("deliveries", "outcome", "type"))
        self._rejections = _Children(self._counter("rejections", "reason"))
        self._attempts = _Children(self._counter("attempts", "type", "outcome"))
        self._not_run = _Children(self._counter("not_run", "type", "outcome"))
        self._stripe_requests = _Children(self._counter("stripe_requests", "status"))
        self._lease_losses = self._counter("lease_losses")
        self._reconcile_missing = self._counter("reconcile_missing")
        self._delivery_seconds = self._histogram("delivery_duration_seconds", DELIVERY_BUCKETS)
        self._attempt_seconds = self._histogram("attempt_duration_seconds", ATTEMPT_BUCKETS)
        self._wait_seconds = self._histogram("rate_limit_wait_seconds", WAIT_BUCKETS)
        threads = Gauge(
            f"{PREFIX}_worker_threads",
            HELP["worker_threads"],
            ["state"],
            multiprocess_mode="livesum",
            registry=self.registry,
        )
        self._busy, self._idle = threads.labels("busy"), threads.labels("idle")

    def _counter(self, name: str, *labels: str) -> Counter:
        return Counter(f"{PREFIX}_{name}", HELP[name], labels, registry=self.registry)

    def _histogram(self, name: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"{PREFIX}_{name}", HELP[name], buckets=buckets, registry=self.registry)

    def delivery(self, outcome: str, event_type: str, seconds: float) -> None:
        """Count a delivery."""
        self._deliveries[outcome, event_type].inc()
        self._delivery_seconds.observe(seconds)

    def rejection(self, reason: str) -> None:
        """Count a rejected request."""
        self._rejections[(reason,)].inc()

    def attempt(self, event_type: str, outcome: str, seconds: float) -> None:
        """Count an attempt."""
        self._attempts[event_type, outcome].inc()
        self._attempt_seconds.observe(seconds)

    def not_run(self, event_type: str, outcome: str, number: int) -> None:
        """Count events that need no run."""
        self._not_run[event_type, outcome].inc(number)

    def stripe_request(self, status: str) -> None:
        """Count a request to Stripe's API."""
        self._stripe_requests[(status,)].inc()

    def rate_limit_wait(self, seconds: float) -> None:
        """Count how long a request waited."""
        self._wait_seconds.observe(seconds)

    def lease_lost(self) -> None:
        """Count a lost claim."""
        self._lease_losses.inc()

    def reconcile_missing(self, number: int) -> None:
        """Count backfilled events."""
        self._reconcile_missing.inc(number)

    def worker_threads(self, busy: int, idle: int) -> None:
        """Set the numbers of worker threads."""
        self._busy.set(busy)
        self._idle.set(idle)
