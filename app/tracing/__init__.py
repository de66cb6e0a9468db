"""Traces of deliveries, attempts and requests to Stripe's API, with OpenTelemetry (extra otel)."""
