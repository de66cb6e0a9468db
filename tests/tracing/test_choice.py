"""The variables of OpenTelemetry decide whether spans are recorded."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from importlib.machinery import ModuleSpec

import pytest

from app.tracing.choice import make_tracing
from app.tracing.otel import OpenTelemetry
from app.tracing.spans import NO_SPAN
from devkit import samples
from devkit.deliver import Logged
from tests.conftest import Receiver

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}


@pytest.mark.parametrize(
    "environ",
    [
        ENDPOINT,
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9/v1/traces"},
        {"OTEL_TRACES_EXPORTER": "otlp"},
        {**ENDPOINT, "OTEL_SDK_DISABLED": "false"},
        {**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
        {
            **ENDPOINT,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
        },
    ],
)
def test_spans_are_recorded_when_they_are_asked_for(environ: dict[str, str]) -> None:
    """An endpoint, or the name of the exporter, asks for spans."""
    assert isinstance(make_tracing(environ), OpenTelemetry)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": " "},
        {**ENDPOINT, "OTEL_SDK_DISABLED": "TRUE"},
        {**ENDPOINT, "OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_SERVICE_NAME": "payments"},
    ],
)
def test_nothing_is_recorded_otherwise(
    environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Without one of them, and when the SDK is disabled, all spans are the empty one."""
    tracing = make_tracing(environ)
    tracing.start()
    tracing.flush()
    assert not isinstance(tracing, OpenTelemetry)
    assert tracing.delivery(None) is tracing.request("get", "https://api.stripe.com") is NO_SPAN
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"OTEL_TRACES_EXPORTER": "console"},
            "OTEL_TRACES_EXPORTER is 'console'; this service exports with otlp only",
        ),
        (
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "OTEL_EXPORTER_OTLP_PROTOCOL is 'grpc'; this service exports with http/protobuf only",
        ),
    ],
)
def test_what_cannot_be_exported_is_logged(
    changes: dict[str, str],
    reason: str,
    make_receiver: Callable[..., Receiver],
    logged: Logged,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An exporter or a protocol that the extra lacks is named at the start."""
    for name, value in {**ENDPOINT, **changes}.items():
        monkeypatch.setenv(name, value)
    make_receiver().services.tracing.start()
    assert logged("tracing_not_started")["reason"] == reason


@pytest.mark.parametrize("missing", ["opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"])
def test_missing_extra_is_logged(
    missing: str,
    make_receiver: Callable[..., Receiver],
    logged: Logged,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without the packages of the extra, the service runs, and says what is missing."""
    find = importlib.util.find_spec

    def find_all_but_one(name: str) -> ModuleSpec | None:
        if name.startswith(missing) and name != missing:
            raise ModuleNotFoundError(name)
        return None if name == missing else find(name)

    # The packages are installed here.
    monkeypatch.setattr(importlib.util, "find_spec", find_all_but_one)
    monkeypatch.setenv(*next(iter(ENDPOINT.items())))
    receiver = make_receiver()
    receiver.services.tracing.start()
    assert receiver.deliver(samples.notification("v1.customer.created")).status_code == 200
    assert logged("tracing_not_started")["reason"] == "the extra otel is not installed"
