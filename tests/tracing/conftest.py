"""Fixtures: the SDK of OpenTelemetry with its exporter in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.conftest import Receiver

#: Nothing listens there. The provider of the tests exports to the memory.
ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}


@pytest.fixture(scope="session")
def exporter() -> InMemorySpanExporter:
    """The exporter of this process: OpenTelemetry allows one provider in a process."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


@pytest.fixture
def traced(
    exporter: InMemorySpanExporter,
    make_receiver: Callable[..., Receiver],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[..., Receiver]]:
    """A function that makes an application which records spans, with the arguments as usual."""

    def make(modules: dict[str, str] | None = None, **changes: Any) -> Receiver:
        with monkeypatch.context() as patch:
            for name, value in ENDPOINT.items():
                patch.setenv(name, value)
            receiver = make_receiver(modules, **changes)
        receiver.services.tracing.start()
        return receiver

    exporter.clear()
    yield make
    exporter.clear()


@pytest.fixture
def spans(exporter: InMemorySpanExporter) -> Callable[[], dict[str, ReadableSpan]]:
    """A function that returns the ended spans by their names."""
    return lambda: {span.name: span for span in exporter.get_finished_spans()}
