"""Records spans with OpenTelemetry. Only ``app.tracing.choice`` imports this module."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from contextvars import Token
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import structlog
from opentelemetry import context, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, ProxyTracerProvider, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from app.errors import InboxUnavailable
from app.inbox import Claim
from app.states import SUCCESSES, Outcome
from app.tracing.spans import NO_SPAN, Span, Tracing

#: The name of the service in traces, if the environment sets none.
SERVICE = "stripe-event-receiver"

#: Seconds in which a stop exports the last spans. gunicorn kills a process one second after the
#: grace period of its callbacks.
FLUSH_SECONDS = 0.8

#: From these statuses on, an answer of this service and one of Stripe's API are errors.
SERVER_ERROR, CLIENT_ERROR = 500, 400

_WORD = re.compile(r"[a-z_]+|v[12]")
_propagator = TraceContextTextMapPropagator()

log = structlog.get_logger(__name__)


class OpenTelemetry(Tracing):
    """Records spans in this process once it is started."""

    def __init__(self) -> None:
        """Record nothing yet."""
        super().__init__()
        self._tracer: trace.Tracer | None = None

    def start(self) -> None:
        """Begin to record, with the provider of this process if there is one already.

        A wrong value of a variable is logged, and nothing is recorded.
        """
        try:
            if isinstance(trace.get_tracer_provider(), ProxyTracerProvider):
                # Callbacks and instrumentations find it there.
                trace.set_tracer_provider(_new_provider())
            self._tracer = trace.get_tracer(__name__)
        except Exception as error:  # noqa: BLE001 - the SDK and its plug-ins may raise anything
            log.warning("tracing_not_started", reason=f"{type(error).__name__}: {error}")

    def flush(self) -> None:
        """Export all ended spans, or as many as ``FLUSH_SECONDS`` allow."""
        if self._tracer is None:
            return
        # The SDK ignores its own time-out.
        flush = getattr(trace.get_tracer_provider(), "force_flush", lambda: None)
        thread = threading.Thread(target=flush, name="flush-spans", daemon=True)
        thread.start()
        thread.join(FLUSH_SECONDS)

    def delivery(self, traceparent: str | None) -> Span:
        """Return the span of an authentic delivery, linked to the ``traceparent`` of its request.

        It begins a trace: anyone on the way can set that header.
        """
        if self._tracer is None:
            return NO_SPAN
        attributes = {"http.request.method": "POST", "http.route": "/webhook"}
        return _Delivery(
            self._tracer.start_span(
                "POST /webhook",
                context=context.Context(),
                kind=SpanKind.SERVER,
                attributes=attributes,
                links=_links(traceparent),
            )
        )

    def attempt(self, claim: Claim) -> Span:
        """Return the span of an attempt: a child of the current span, or else a new trace."""
        if self._tracer is None:
            return NO_SPAN
        attributes: dict[str, Any] = {
            "messaging.system": "stripe",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": claim.type,
            "messaging.message.id": claim.event_id,
            "stripe.attempt": claim.attempt,
        }
        return _Attempt(
            self._tracer.start_span(
                f"process {claim.type}",
                kind=SpanKind.CONSUMER,
                attributes=attributes,
                links=_links(claim.trace),
            )
        )

    def request(self, method: str, url: str) -> Span:
        """Return the span of a request to Stripe's API."""
        if self._tracer is None:
            return NO_SPAN
        parts = urlsplit(url)
        template = path_template(parts.path)
        attributes: dict[str, Any] = {
            "http.request.method": method.upper(),
            "url.template": template,
            "server.address": parts.hostname or "",
            "server.port": parts.port or 443,
        }
        name = f"{method.upper()} {template}"
        return _Request(self._tracer.start_span(name, kind=SpanKind.CLIENT, attributes=attributes))


def _new_provider() -> TracerProvider:
    """Return a provider that exports in batches, as the variables of the environment say."""
    given = OTELResourceDetector().detect().attributes.get(SERVICE_NAME)
    resource = Resource.create({SERVICE_NAME: given or SERVICE})
    # The SDK's own end at the exit has no time limit.
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def _links(traceparent: str | None) -> list[Link]:
    """Return the link to the span of a ``traceparent``, unless it is missing or malformed.

    A child needs no link to its own parent.
    """
    if not traceparent:
        return []
    found = _propagator.extract({"traceparent": traceparent}, context.Context())
    linked = trace.get_current_span(found).get_span_context()
    current = trace.get_current_span().get_span_context()
    return [Link(linked)] if linked.is_valid and linked.span_id != current.span_id else []


def path_template(path: str) -> str:
    """Return a path of Stripe's API with ``{id}`` for each id, which can name a customer.

    An id follows a plural, such as ``customers``, or is no word.
    """
    shown: list[str] = []
    for segment in path.split("/"):
        is_id = bool(shown) and shown[-1].endswith("s")
        shown.append(segment if not is_id and (not segment or _WORD.fullmatch(segment)) else "{id}")
    return "/".join(shown)


class _Recorded(Span):
    """A span that is recorded, and the current span of its block."""

    __slots__ = ("_span", "_token")
    _token: Token[context.Context]

    def __init__(self, span: trace.Span) -> None:
        self._span = span

    @property
    def traceparent(self) -> str:  # type: ignore[override]  # a recorded span has one
        carrier: dict[str, str] = {}
        _propagator.inject(carrier, trace.set_span_in_context(self._span))
        return carrier["traceparent"]

    def __enter__(self) -> Self:
        self._token = context.attach(trace.set_span_in_context(self._span))
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self.failed(error)
            self._end_with(error)
        context.detach(self._token)
        self._span.end()

    def _end_with(self, error: BaseException) -> None:
        self.ended(getattr(error, "outcome", Outcome.FAILED))

    def log_fields(self) -> Mapping[str, str]:
        found = self._span.get_span_context()
        return {
            "trace_id": trace.format_trace_id(found.trace_id),
            "span_id": trace.format_span_id(found.span_id),
        }

    def failed(self, error: BaseException) -> None:
        kind = type(error)
        module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
        self._span.set_attribute("error.type", f"{module}{kind.__qualname__}")


class _Delivery(_Recorded):
    __slots__ = ()

    def is_of(self, event_id: str, event_type: str, *, livemode: bool) -> None:
        self._span.set_attributes(
            {
                "stripe.event.id": event_id,
                "stripe.event.type": event_type,
                "stripe.event.livemode": livemode,
            }
        )

    def ended(self, outcome: str, status: int = 200) -> None:
        self._span.set_attributes({"stripe.outcome": outcome, "http.response.status_code": status})
        if status >= SERVER_ERROR:
            self._span.set_status(StatusCode.ERROR)

    def _end_with(self, error: BaseException) -> None:
        unknown = 503 if isinstance(error, InboxUnavailable) else 500
        status = getattr(error, "status", unknown)
        self.ended(getattr(error, "outcome", Outcome.FAILED), status)


class _Attempt(_Recorded):
    __slots__ = ()

    def ended(self, outcome: str) -> None:
        self._span.set_attribute("stripe.outcome", outcome)
        if outcome not in SUCCESSES:
            self._span.set_status(StatusCode.ERROR)


class _Request(_Recorded):
    __slots__ = ()

    def answered(self, status: int, headers: Mapping[str, str]) -> None:
        self._span.set_attribute("http.response.status_code", status)
        if status >= CLIENT_ERROR:
            self._span.set_status(StatusCode.ERROR)
            self._span.set_attribute("error.type", str(status))
        if request_id := headers.get("Request-Id"):
            self._span.set_attribute("http.response.header.request-id", [request_id])

    def _end_with(self, _error: BaseException) -> None:
        self._span.set_status(StatusCode.ERROR)
