"""Steps of the database's clock: which events can be claimed, and when.

The statements are the inbox's own. On PostgreSQL, functions of the test's database hide the
server's clock functions. SQLite uses the clock of this process.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from app.inbox import Failure, Inbox, NewEvent
from app.inbox.activity import Activity, period_of
from app.processing.rescuer import Rescuer
from tests.support.clock import Clock
from tests.support.inboxes import MakeInbox

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
    """The clock of the test's database."""
    clock = Clock(tmp_path)
    if database_url.startswith("sqlite"):
        clock.of_sqlite(monkeypatch)
    else:
        clock.of_postgresql(database_url)
    return clock


@pytest.fixture
def make_inbox(clock: Clock, make_inbox: MakeInbox) -> MakeInbox:
    """A function that opens the test's database, as another process does."""
    assert clock.offset == 0  # the clock has to be set up first
    return partial(make_inbox, LEASE)


def test_statements_use_the_clock_of_the_test(inbox: Inbox, clock: Clock) -> None:
    """The statements use the clock that the tests here set."""
    for number, seconds in enumerate([0.0, HOUR, -2 * HOUR]):
        clock.step(seconds)
        inbox.deliveries.enqueue(replace(EVENT, id=f"evt_{number}"))
        event = inbox.administration.find(f"evt_{number}")
        assert event is not None
        assert event.received_at == pytest.approx(clock.now(), abs=60)


@pytest.mark.parametrize("seconds", STEPS)
def test_delivery_claims_no_running_event_after_a_step(
    make_inbox: MakeInbox, clock: Clock, seconds: float
) -> None:
    """This holds after a second step too, and the claim from before can be settled."""
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
def test_worker_claims_no_running_event_after_a_step(
    make_inbox: MakeInbox, clock: Clock, seconds: float
) -> None:
    """It claims neither the event nor another one of its key. The lease can be renewed."""
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
            assert each.claims.claim_one("evt_1", by="me") is None
            assert each.claims.mark_poison_dead() is None

    assert second.claims.renew(claim)
    assert first.claims.finish(claim)


@pytest.mark.parametrize("seconds", STEPS)
def test_new_event_is_due_at_once(inbox: Inbox, clock: Clock, seconds: float) -> None:
    """Events that were recorded before or after the step wait for no clock."""
    inbox.deliveries.enqueue(EVENT)
    clock.step(seconds)
    Rescuer(inbox.rescue, 1.0).watch_clock()  # as each live process does
    inbox.deliveries.enqueue(replace(EVENT, id="evt_2", concurrency_key="cus_2"))

    claimed = [inbox.claims.claim_due(livemode=False) for _ in range(2)]

    assert {claim.event_id for claim in claimed if claim} == {"evt_1", "evt_2"}


@pytest.mark.parametrize("seconds", STEPS)
def test_new_events_of_one_key_do_not_block_each_other(
    inbox: Inbox, clock: Clock, seconds: float
) -> None:
    """They run one after the other, in any order."""
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
    """In inline mode Stripe decides when an event is due, not the clock."""
    claim = inbox.deliveries.record_and_claim(EVENT).claim
    assert claim is not None
    inbox.claims.fail(claim, Failure("no"))
    clock.step(-HOUR)

    assert inbox.deliveries.record_and_claim(EVENT).claim is not None


@pytest.mark.parametrize("fails", [False, True])
def test_parked_event_is_due_after_its_type_is_resumed(
    inbox: Inbox, clock: Clock, *, fails: bool
) -> None:
    """The repair reaches events of paused types too, and they stay parked until then."""
    clock.step(30 * 24 * HOUR)
    if fails:
        claim = inbox.deliveries.record_and_claim(EVENT).claim
        assert claim is not None
        inbox.claims.fail(claim, Failure("no"))
    else:
        inbox.deliveries.enqueue(EVENT)
    inbox.administration.pause(by="me", why=None, type_=EVENT.type)
    inbox.administration.park()
    clock.step(-30 * 24 * HOUR)
    Rescuer(inbox.rescue, 1.0).watch_clock()  # as each live process does
    assert inbox.claims.claim_due(livemode=False) is None

    inbox.administration.resume(by="me", type_=EVENT.type)
    inbox.administration.park()

    found = inbox.claims.claim_due(livemode=False)
    assert found is not None
    assert found.event_id == "evt_1"


def test_leadership_is_free_after_a_step_back(make_inbox: MakeInbox, clock: Clock) -> None:
    """A term from before the step ends no later than one term from now, also if no process saw it.

    Otherwise a task of leaders would not run again until the clock has caught up.
    """
    first, second = make_inbox(), make_inbox()
    assert first.reconciliation.acquire_leadership("retention", "first", HOUR)
    assert not second.reconciliation.acquire_leadership("retention", "second", HOUR)
    clock.step(-2 * HOUR)
    assert second.reconciliation.acquire_leadership("retention", "second", HOUR)
    assert not first.reconciliation.acquire_leadership("retention", "first", HOUR)


def test_wrong_clock_and_reconciliation_remove_no_event(
    inbox: Inbox, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that is ahead refuses deliveries, and reconciliation records their events.

    The time at which it does so shows no right clock. Stripe would resend a removed event.
    """
    claim = inbox.deliveries.record_and_claim(EVENT).claim
    assert claim is not None
    inbox.claims.finish(claim)
    clock.step(100 * 24 * HOUR)
    ahead = clock.now()
    # A mock: no test may set the clock of the machine.
    monkeypatch.setattr(time, "time", lambda: ahead)
    assert inbox.reconciliation.backfill(replace(EVENT, id="evt_2"))
    before = inbox.retention.days_ago(31)
    assert inbox.retention.count(before) == 0


def test_database_clock_that_is_behind_removes_no_event(inbox: Inbox, clock: Clock) -> None:
    """An age counts from the clock that is furthest behind, which can be the database's alone."""
    inbox.deliveries.enqueue(EVENT)
    clock.step(-100 * 24 * HOUR)
    assert inbox.retention.days_ago(0) == pytest.approx(clock.now(), abs=60)


def test_silence_is_seen_after_a_step_back(inbox: Inbox, clock: Clock) -> None:
    """A delivery that was counted before the step hides no silence, and no failing deliveries."""
    clock.step(10 * HOUR)
    count(inbox, "failed", clock.now() - 60)
    count(inbox, "handled", clock.now())
    clock.step(-10 * HOUR)
    count(inbox, "failed", clock.now() - 2 * HOUR)
    facts = inbox.alert_facts
    silence = facts.silence(facts.now(), HOUR)
    assert silence is not None
    assert silence.seconds == pytest.approx(2 * HOUR, abs=60)
    assert facts.answers().failures == 1


def test_finding_has_the_time_of_its_level(inbox: Inbox, clock: Clock) -> None:
    """``since`` stays while the level stays, and begins anew with another level."""
    since = []
    for level in ("ok", "warn", "warn", "ok"):
        inbox.findings.record("clock_off", level, "the clock")
        since += [each.since for each in inbox.findings.list()]
        clock.step(HOUR)
    passed = [each - since[0] for each in since]
    assert passed == [pytest.approx(hours * HOUR, abs=60) for hours in (0, 1, 1, 3)]


def count(inbox: Inbox, outcome: str, at: float) -> None:
    """Count a delivery, as the process that took it at this time does."""
    inbox.activity.add([Activity("delivery", outcome, period_of(at), 1, at)])
