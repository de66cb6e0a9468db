"""The interface of tracing, and the implementation without OpenTelemetry, which records nothing."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Self

import structlog

from app.inbox import Claim

log = structlog.get_logger(__name__)


class Span:
    """A span that is not recorded. It is the current span of its block."""

    __slots__ = ()

    #: The W3C traceparent of the span, or None if it is not recorded.
    traceparent: str | None = None

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        """End. An ``error`` that leaves the block belongs to the span."""

    def log_fields(self) -> Mapping[str, str]:
        """Return the fields of log lines that name this span."""
        return {}

    def is_of(self, event_id: str, event_type: str, *, livemode: bool) -> None:
        """Name the event."""

    def failed(self, error: BaseException) -> None:
        """Record the type of the ``error``. Its text can quote the body, and is not recorded."""

    def ended(self, outcome: str) -> None:
        """Record the ``outcome`` of a delivery or an attempt."""

    def answered(self, status: int, headers: Mapping[str, str]) -> None:
        """Record the answer of Stripe's API."""


NO_SPAN = Span()


class Tracing:
    """The spans of one process. This class records none."""

    def __init__(self, problem: str | None = None) -> None:
        """Take the ``problem``: why spans that are asked for cannot be recorded, or None."""
        self._problem = problem

    def start(self) -> None:
        """Begin to record, after the last fork: the thread of the exporter does not survive one."""
        if self._problem:
            log.warning("tracing_not_started", reason=self._problem)

    def flush(self) -> None:
        """Export all ended spans, or as many as ``FLUSH_SECONDS`` allow."""

    def delivery(self, traceparent: str | None) -> Span:
        """Return the span of an authentic delivery. ``traceparent`` is the header of its request.

        Nothing vouches for that header, so it becomes a link and never the parent.
        """
        del traceparent
        return NO_SPAN

    def attempt(self, claim: Claim) -> Span:
        """Return the span of an attempt.

        It is a child of the current span, such as a delivery in inline mode. Without one it begins
        a trace. It has a link to the first delivery of the event.
        """
        del claim
        return NO_SPAN

    def request(self, method: str, url: str) -> Span:
        """Return the span of a request to Stripe's API."""
        del method, url
        return NO_SPAN
