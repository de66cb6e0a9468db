"""A connection limit of PostgreSQL's that is too low costs throughput, not availability."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.services import ACCEPTED, DEADLINE, HANDLED, ONCE, Lab
from tests.support.waiting import wait_for


@pytest.mark.parametrize(
    ("processing", "answer", "limit"), [("inline", HANDLED, 1), ("queue", ACCEPTED, 2)]
)
def test_burst_above_the_limit_is_answered(
    make_limited_url: Callable[[int], str],
    lab: Lab,
    processing: str,
    answer: tuple[int, str],
    limit: int,
) -> None:
    """Two processes with 8 threads each take turns. After the burst single deliveries succeed."""
    service = lab.start(make_limited_url(limit), PROCESSING=processing)
    burst = [f"evt_{number}" for number in range(60)]
    singles = [f"evt_single_{number}" for number in range(20)]
    service.deliver("evt_first")

    answers = list(lab.pool.map(service.deliver, burst))
    assert {each.brief for each in answers} == {answer}
    assert {service.deliver(each).brief for each in singles} == {answer}
    assert service.is_ready()
    wait_for(lambda: all(lab.account(each) == ONCE for each in [*burst, *singles]), DEADLINE)
