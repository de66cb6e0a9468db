"""Decides whether a process records spans, by the environment variables of OpenTelemetry.

https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping

from app.tracing.spans import Tracing

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
EXPORTER = "OTEL_TRACES_EXPORTER"

#: The packages that the extra installs.
PACKAGES = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http")


def make_tracing(environ: Mapping[str, str]) -> Tracing:
    """Return the tracing that ``environ`` asks for. It loads OpenTelemetry only if it does.

    An endpoint asks for it, or ``OTEL_TRACES_EXPORTER=otlp``.
    """
    given = {name: value.strip().lower() for name, value in environ.items() if value.strip()}
    if given.get("OTEL_SDK_DISABLED") == "true" or not _asks(given):
        return Tracing()
    problem = _problem(given)
    if problem:
        return Tracing(problem)
    from app.tracing.otel import OpenTelemetry  # noqa: PLC0415 - only where it is installed

    return OpenTelemetry()


def _asks(given: Mapping[str, str]) -> bool:
    exporter = given.get(EXPORTER)
    return exporter != "none" and bool(exporter or any(given.get(name) for name in ENDPOINTS))


def _problem(given: Mapping[str, str]) -> str | None:
    """Return why the spans cannot be exported, or None."""
    protocol = next((name for name in PROTOCOLS if given.get(name)), "")
    for name, only in ((EXPORTER, "otlp"), (protocol, "http/protobuf")):
        if given.get(name, only) != only:
            return f"{name} is {given[name]!r}; this service exports with {only} only"
    if not all(map(_is_installed, PACKAGES)):
        return "the extra otel is not installed"
    return None


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # a package around it is missing
        return False
