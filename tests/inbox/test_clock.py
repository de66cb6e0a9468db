"""A database's clock that is set back or on: what the inbox gives out, and when.

The statements are the inbox's own. On PostgreSQL functions of the database stand before the
server's; SQLite asks this process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from app.inbox import Failure, Inbox, NewEvent
from app.processing.rescuer import Rescuer
from tests.support.clock import Clock

EVENT = NewEvent(
    "evt_1",
    "v1.customer.created",
    livemode=False,
    context=None,
    body=b"{}",
    concurrency_key="cus_1",
)
LEASE, HOUR = 30.0, 3600.0
STEPS = [60.0, HOUR, -HOUR]


@pytest.fixture
def clock(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock by which the test's database goes."""
    clock = Clock(tmp_path)
    if database_url.startswith("sqlite"):
        clock.of_sqlite(monkeypatch)
    else:
        clock.of_postgresql(database_url)
    return clock


@pytest.fixture
def make_inbox(clock: Clock, database_url: str) -> Iterator[Callable[[], Inbox]]:
    """A function that opens the test's database, as another process does."""
    assert clock.offset == 0  # it has to be there first
    opened: list[Inbox] = []

    def make() -> Inbox:
        opened.append(Inbox(database_url, lease_seconds=LEASE))
        return opened[-1]

    yield make
    for inbox in opened:
        inbox.close()


@pytest.fixture
def inbox(make_inbox: Callable[[], Inbox]) -> Inbox:
    """An inbox of the test's database."""
    return make_inbox()


def test_statements_go_by_the_clock_of_the_test(inbox: Inbox, clock: Clock) -> None:
    """Or the tests here would show nothing."""
    for number, seconds in enumerate([0.0, HOUR, -2 * HOUR]):
        clock.step(seconds)
        inbox.deliveries.enqueue(replace(EVENT, id=f"evt_{number}"))
        event = inbox.administration.find(f"evt_{number}")
        assert event is not None
        assert event.received_at == pytest.approx(clock.now(), abs=60)


@pytest.mark.parametrize("seconds", STEPS)
def test_step_lets_no_delivery_take_what_runs(
    make_inbox: Callable[[], Inbox], clock: Clock, seconds: float
) -> None:
    """Nor does a second step; and the claim that was there before is settled."""
    first, second = make_inbox(), make_inbox()
    claim = first.deliveries.record_and_claim(EVENT).claim
    assert claim is not None

    for _ in range(2):
        clock.step(seconds)
        assert [each.deliveries.record_and_claim(EVENT).claim for each in (first, second)] == [
            None,
            None,
        ]

    assert first.claims.finish(claim)
    assert second.deliveries.record_and_claim(EVENT).outcome == "handled"


@pytest.mark.parametrize("seconds", STEPS)
def test_step_lets_no_worker_take_what_runs(
    make_inbox: Callable[[], Inbox], clock: Clock, seconds: float
) -> None:
    """Neither the event nor another one of its object: one still runs, and may be renewed."""
    first, second = make_inbox(), make_inbox()
    first.deliveries.enqueue(EVENT)
    claim = first.claims.claim_due(livemode=False)
    assert claim is not None
    first.deliveries.enqueue(replace(EVENT, id="evt_2"))

    for _ in range(2):
        clock.step(seconds)
        for each in (first, second):
            assert each.claims.claim_orphan(livemode=False) is None
            assert each.claims.claim_due(livemode=False) is None
            assert each.claims.claim_one("evt_1") is None
            assert each.claims.mark_poison_dead() is None

    assert second.claims.renew(claim)
    assert first.claims.finish(claim)


@pytest.mark.parametrize("seconds", STEPS)
def test_new_event_is_due_at_once(inbox: Inbox, clock: Clock, seconds: float) -> None:
    """One that was recorded before the step, and one after it: neither has to wait for a clock."""
    inbox.deliveries.enqueue(EVENT)
    clock.step(seconds)
    Rescuer(inbox.rescue, 1.0).watch_clock()  # as each live process does
    inbox.deliveries.enqueue(replace(EVENT, id="evt_2", concurrency_key="cus_2"))

    claimed = [inbox.claims.claim_due(livemode=False) for _ in range(2)]

    assert {claim.event_id for claim in claimed if claim} == {"evt_1", "evt_2"}


@pytest.mark.parametrize("seconds", STEPS)
def test_new_events_of_one_object_do_not_block_each_other(
    inbox: Inbox, clock: Clock, seconds: float
) -> None:
    """One runs after the other, whichever has the earlier time."""
    inbox.deliveries.enqueue(EVENT)
    clock.step(seconds)
    Rescuer(inbox.rescue, 1.0).watch_clock()  # as each live process does
    inbox.deliveries.enqueue(replace(EVENT, id="evt_2"))

    first = inbox.claims.claim_due(livemode=False)
    assert first is not None
    assert inbox.claims.claim_due(livemode=False) is None
    inbox.claims.finish(first)
    second = inbox.claims.claim_due(livemode=False)

    assert second is not None
    assert {first.event_id, second.event_id} == {"evt_1", "evt_2"}


def test_failed_event_is_taken_by_its_next_delivery(inbox: Inbox, clock: Clock) -> None:
    """In inline mode Stripe says when, and the clock has no part in it."""
    claim = inbox.deliveries.record_and_claim(EVENT).claim
    assert claim is not None
    inbox.claims.fail(claim, Failure("no"))
    clock.step(-HOUR)

    assert inbox.deliveries.record_and_claim(EVENT).claim is not None
