"""Spans of a real server, which exports them over OTLP/HTTP to a receiver of the test."""

from __future__ import annotations

import pytest

from tests.support.otlp import collecting
from tests.support.services import ACCEPTED, EVENT_TYPE, Lab
from tests.support.waiting import wait_for


@pytest.mark.measured
def test_server_exports_its_spans(lab: Lab, tmp_path: object) -> None:
    """The worker processes export, not the process that forks them, and a stop loses no span."""
    with collecting() as collector:
        service = lab.start(
            f"sqlite:///{tmp_path}/inbox.sqlite3",
            PROCESSING="queue",
            WEB_CONCURRENCY=2,
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
            OTEL_BSP_SCHEDULE_DELAY=3600_000,  # only the stop exports
        )
        for number in range(4):
            assert service.deliver(f"evt_{number}").brief == ACCEPTED
        wait_for(lambda: sum(entry.what == "end" for entry in lab.journal()) == 4)
        assert collector.spans == []
        service.terminate()
        assert service.wait() == 0
        attempts = collector.named(f"process {EVENT_TYPE}")
        deliveries = {(each.trace_id, each.span_id) for each in collector.named("POST /webhook")}
        links = {(link.trace_id, link.span_id) for each in attempts for link in each.links}
    assert len(attempts) == 4
    assert links == deliveries
    assert collector.services == {"stripe-event-receiver"}
