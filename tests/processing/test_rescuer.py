"""Orphans are found by the observations of live processes, not by the wall clock alone."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial

import pytest

from app.errors import InboxUnavailable
from app.inbox import Failure, Inbox, NewEvent, Suspect
from app.inbox.sql.rescue import MIN_GRACE
from app.processing.rescuer import STEP_SECONDS, Rescuer
from tests.support import raw_sql
from tests.support.inboxes import MakeInbox
from tests.support.waiting import wait_for

EVENT = NewEvent("evt_1", "v1.customer.created", livemode=False, context=None, body=b"{}")
#: A lease that has expired before the next statement.
SHORT = -1.0
TICK = 10.0
EXPIRED = "UPDATE events SET lease_until = lease_until - 7200"
AHEAD = "UPDATE events SET lease_until = lease_until + 7200"


@pytest.fixture
def make_inbox(make_inbox: MakeInbox) -> MakeInbox:
    """A function that opens the test's database, with leases of three seconds by default."""
    return partial(make_inbox, lease_seconds=3.0)


@pytest.fixture
def inbox(make_inbox: MakeInbox) -> Inbox:
    """An inbox with one running event."""
    inbox = make_inbox()
    assert inbox.deliveries.record_and_claim(EVENT).claim is not None
    return inbox


def poll(rescuer: Rescuer, *, seconds: float) -> int:
    """Poll as if the last poll was ``seconds`` ago. Returns the number of undecided suspects."""
    return rescuer.measure(rescuer.poll(), time.monotonic() + seconds)


def raise_outage() -> list[Suspect]:
    """Raise what an outage of the inbox raises."""
    raise InboxUnavailable("away", reason="away")


def suspected(inbox: Inbox) -> float:
    """Return the seconds for which the lease was seen unrenewed."""
    event = inbox.administration.find("evt_1")
    assert event is not None
    return event.suspected_seconds


def record_and_claim(inbox: Inbox, number: int) -> None:
    """Claim one more event."""
    assert inbox.deliveries.record_and_claim(replace(EVENT, id=f"evt_{number}")).claim is not None


def test_valid_lease_is_not_suspected(inbox: Inbox) -> None:
    """Until a lease expires, its process need not renew it."""
    assert Rescuer(inbox.rescue, TICK).poll() == []


@pytest.mark.parametrize("step", [EXPIRED, AHEAD], ids=["forwards", "backwards"])
def test_clock_step_alone_makes_no_orphan(inbox: Inbox, database_url: str, step: str) -> None:
    """Only the time that live processes count makes an orphan, and a renewal ends it."""
    raw_sql.execute(database_url, step)
    rescuer = Rescuer(inbox.rescue, TICK)

    assert poll(rescuer, seconds=0) == 1  # the first poll counts nothing
    assert suspected(inbox) == 0
    assert poll(rescuer, seconds=1) == 1
    assert 0 < suspected(inbox) < MIN_GRACE
    assert inbox.deliveries.record_and_claim(EVENT).claim is None
    assert poll(rescuer, seconds=2) == 0
    assert inbox.administration.find("evt_1").is_orphan  # type: ignore[union-attr]  # it is there
    assert inbox.deliveries.record_and_claim(EVENT).claim is not None


@pytest.mark.parametrize("lease", ["now", "later"])
def test_claim_of_the_previous_version_is_rescued_later(
    inbox: Inbox, database_url: str, lease: str
) -> None:
    """During a deployment: such a claim has no lease length, so its grace is longer."""
    raw_sql.execute(database_url, "UPDATE events SET lease_seconds = NULL")
    raw_sql.execute(database_url, AHEAD if lease == "later" else EXPIRED)
    rescuer = Rescuer(inbox.rescue, 30.0)

    poll(rescuer, seconds=0)
    assert poll(rescuer, seconds=50) == 1
    assert inbox.deliveries.record_and_claim(EVENT).claim is None
    assert poll(rescuer, seconds=11) == 0
    assert inbox.administration.find("evt_1").is_orphan  # type: ignore[union-attr]  # it is there
    assert inbox.deliveries.record_and_claim(EVENT).claim is not None


def test_long_lease_of_previous_version_is_not_suspected(inbox: Inbox, database_url: str) -> None:
    """A lease that ends within minutes may be as long as that."""
    raw_sql.execute(
        database_url, "UPDATE events SET lease_seconds = NULL, lease_until = lease_until + 600"
    )

    assert Rescuer(inbox.rescue, TICK).poll() == []


def test_renewed_lease_is_counted_from_zero(make_inbox: MakeInbox) -> None:
    """Time counted before a renewal belongs to another lease."""
    inbox = make_inbox(lease_seconds=SHORT)
    mine = inbox.deliveries.record_and_claim(EVENT).claim
    assert mine is not None
    rescuer = Rescuer(inbox.rescue, TICK)
    poll(rescuer, seconds=0)
    poll(rescuer, seconds=1.5)
    assert suspected(inbox) > 1
    inbox.claims.renew(mine)

    assert poll(rescuer, seconds=0) == 1
    assert [each.seconds for each in rescuer.poll()] == [0.0]
    assert poll(rescuer, seconds=1.5) == 1
    assert inbox.deliveries.record_and_claim(EVENT).claim is None


def test_seconds_of_two_processes_are_not_counted_twice(inbox: Inbox, database_url: str) -> None:
    """Two processes that poll at the same time count the time once."""
    raw_sql.execute(database_url, EXPIRED)
    first, second = Rescuer(inbox.rescue, TICK), Rescuer(inbox.rescue, TICK)
    poll(first, seconds=0)
    poll(second, seconds=0)
    suspects = second.poll()
    assert poll(first, seconds=1) == 1

    assert second.measure(suspects, time.monotonic() + 1) == 1  # read before the other wrote
    assert poll(second, seconds=1) == 1
    assert suspected(inbox) < MIN_GRACE


def test_count_goes_on_in_another_process(inbox: Inbox, database_url: str) -> None:
    """Another process continues the count of one that has ended."""
    raw_sql.execute(database_url, EXPIRED)
    for _ in range(2):
        rescuer = Rescuer(inbox.rescue, TICK)
        assert poll(rescuer, seconds=0) == 1
        poll(rescuer, seconds=1.2)

    assert inbox.administration.find("evt_1").is_orphan  # type: ignore[union-attr]  # it is there


@pytest.mark.parametrize("pause", ["outage", "stopped"])
def test_time_without_possible_renewals_is_not_counted(
    inbox: Inbox, database_url: str, pause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither an outage of the inbox counts, nor a time in which this process was stopped."""
    raw_sql.execute(database_url, EXPIRED)
    rescuer = Rescuer(inbox.rescue, 0.5)
    poll(rescuer, seconds=0)
    if pause == "outage":
        with monkeypatch.context() as patch:
            # A real database cannot be away for one statement.
            patch.setattr(inbox.rescue, "suspects", raise_outage)
            with pytest.raises(InboxUnavailable):
                rescuer.poll()

    assert poll(rescuer, seconds=3600) == 1
    assert suspected(inbox) <= 1


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize(("locked", "free"), [("evt_1", "evt_2"), ("evt_2", "evt_1")])
def test_locked_row_keeps_no_other_event_from_being_rescued(
    inbox: Inbox, database_url: str, locked: str, free: str
) -> None:
    """A row locked by a person's transaction delays only its own event."""
    record_and_claim(inbox, 2)
    raw_sql.execute(database_url, EXPIRED)
    rescuer = Rescuer(inbox.rescue, TICK)
    poll(rescuer, seconds=0)

    with raw_sql.locking(database_url, locked), pytest.raises(InboxUnavailable):
        poll(rescuer, seconds=MIN_GRACE + 1)
    assert inbox.administration.find(free).is_orphan  # type: ignore[union-attr]  # it is there
    assert poll(rescuer, seconds=MIN_GRACE + 1) == 1  # counted from zero: it could not be renewed
    assert poll(rescuer, seconds=MIN_GRACE + 1) == 0


def test_counting_suspects_takes_limited_time(inbox: Inbox, database_url: str) -> None:
    """This process has leases to renew. Suspects without time are counted in the next tick."""
    record_and_claim(inbox, 2)
    raw_sql.execute(database_url, EXPIRED)
    rescuer = Rescuer(inbox.rescue, TICK)
    poll(rescuer, seconds=0)

    assert poll(rescuer, seconds=-3600) == 2
    assert suspected(inbox) == 0
    assert poll(rescuer, seconds=MIN_GRACE + 1) == 0


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_suspect_after_a_failure_is_counted_from_zero(inbox: Inbox, database_url: str) -> None:
    """The failure may be an outage, in which no process can renew. Failed ones come last."""
    record_and_claim(inbox, 2)
    raw_sql.execute(database_url, EXPIRED)
    rescuer = Rescuer(inbox.rescue, TICK)
    poll(rescuer, seconds=0)
    with raw_sql.locking(database_url, "evt_1"), pytest.raises(InboxUnavailable):
        poll(rescuer, seconds=0.5 - 2 * TICK)  # the time is over when it has failed
    assert poll(rescuer, seconds=-3600) == 2

    assert poll(rescuer, seconds=MIN_GRACE + 1) == 2
    assert poll(rescuer, seconds=MIN_GRACE + 1) == 0


def test_start_repairs_due_times(make_inbox: MakeInbox, database_url: str) -> None:
    """A new event is due at once. A retry is due after its delay, counted from now."""
    inbox = make_inbox()
    for number in (1, 2, 3):
        inbox.deliveries.enqueue(
            NewEvent(f"evt_{number}", "v1.x", livemode=False, context=None, body=b"{}")
        )
    inbox.claims.claim_one("evt_3", by="me")
    failed = inbox.claims.claim_one("evt_2", by="me")
    assert failed is not None
    inbox.claims.fail(failed, Failure("no", delay=500))
    inbox.rate_limits.reserve("live all", 1, 1.0)
    times = (
        "due_at = due_at + 3600, settled_at = settled_at + 3600, received_at = received_at + 3600"
    )
    raw_sql.execute(database_url, f"UPDATE events SET {times}")  # noqa: S608 - a test's own
    raw_sql.execute(database_url, "UPDATE budgets SET free_at = free_at + 3600")
    assert inbox.claims.claim_due(livemode=False) is None

    Rescuer(inbox.rescue, TICK).watch_clock()

    claim = inbox.claims.claim_due(livemode=False)
    assert claim is not None
    assert claim.event_id == "evt_1"
    event, now = inbox.administration.find("evt_2"), inbox.rescue.clock()
    assert event is not None
    assert 400 < event.due_at - now <= 500
    assert inbox.rate_limits.reserve("live all", 1, 1.0)[0] < 60
    Rescuer(inbox.rescue, TICK).watch_clock()
    assert inbox.administration.find("evt_2") == event  # once is enough


def test_step_back_is_repaired_when_it_is_observed(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Leaderships and slots that are not far ahead are repaired too."""
    rescuer = Rescuer(inbox.rescue, TICK)
    rescuer.watch_clock()
    assert inbox.reconciliation.acquire_leadership("reconcile", "dead", 60)
    inbox.rate_limits.reserve("live all", 50, 1.0)
    clock = inbox.rescue.clock
    rescuer.watch_clock()
    assert not inbox.reconciliation.acquire_leadership("reconcile", "other", 60)
    assert inbox.rate_limits.reserve("live all", 1, 1.0)[0] > 40
    # The clock of a real database cannot be set. Processes under a test's clock show the rest.
    monkeypatch.setattr(inbox.rescue, "clock", lambda: clock() - 30)

    rescuer.watch_clock()

    wait_for(lambda: inbox.reconciliation.acquire_leadership("reconcile", "other", 60))
    assert inbox.rate_limits.reserve("live all", 1, 1.0)[0] < 5
    printed = capsys.readouterr()
    assert "clock_stepped_back" in printed.out + printed.err


def test_late_answer_is_no_clock_step(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A leader keeps its term, and no slot becomes free, because an answer took seconds."""
    rescuer = Rescuer(inbox.rescue, TICK)
    rescuer.watch_clock()
    assert inbox.reconciliation.acquire_leadership("reconcile", "alive", 60)
    clock = inbox.rescue.clock

    def answer_late() -> float:
        read = clock()
        time.sleep(2 * STEP_SECONDS)
        return read

    # A real database cannot be told to answer late.
    monkeypatch.setattr(inbox.rescue, "clock", answer_late)

    rescuer.watch_clock()

    assert not inbox.reconciliation.acquire_leadership("reconcile", "other", 60)
    printed = capsys.readouterr()
    assert "clock_stepped_back" not in printed.out + printed.err
