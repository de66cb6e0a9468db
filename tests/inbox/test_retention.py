"""Retention: which events are removed, by which clock, and in which steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from app.inbox import Claim, Failure, Inbox, NewEvent, Outcome
from app.inbox import retention as retaining
from app.inbox.pairs import Hold
from app.inbox.retention import DAY_SECONDS, START, Place
from tests.support import raw_sql

EVENT = NewEvent("evt_1", "v1.customer.created", livemode=False, context=None, body=b"{}")


@pytest.fixture
def age(database_url: str) -> Callable[..., None]:
    """A function that moves the times of an event back by days."""

    def move(event_id: str, days: float, *columns: str) -> None:
        for name in columns or ("received_at", "settled_at"):
            raw_sql.execute(
                database_url,
                f"UPDATE events SET {name} = {name} - {days * DAY_SECONDS} WHERE id = '{event_id}'",  # noqa: S608 - the test's own
            )

    return move


def claim(inbox: Inbox, event_id: str) -> Claim:
    """Deliver an event that has to get the claim."""
    found = inbox.deliveries.record_and_claim(replace(EVENT, id=event_id)).claim
    assert found is not None
    return found


def done(inbox: Inbox, *event_ids: str) -> None:
    """Deliver events whose callback returns."""
    for each in event_ids:
        assert inbox.claims.finish(claim(inbox, each))


def ids(inbox: Inbox) -> set[str]:
    """Return the ids of all events."""
    return {each.id for each in inbox.administration.latest(100)}


def remove(inbox: Inbox, days: float) -> int:
    """Remove what is older than so many days, in all steps."""
    place: Place | None = START
    removed, before = 0, inbox.retention.days_ago(days)
    while place is not None:
        step = inbox.retention.step(before, place)
        removed, place = removed + step.removed, step.next
    return removed


def test_only_events_that_are_done_are_removed(inbox: Inbox, age: Callable[..., None]) -> None:
    """Old events that are pending, running or dead stay, and so does all that is younger."""
    done(inbox, "evt_old", "evt_new")
    inbox.deliveries.record_skipped(replace(EVENT, id="evt_skipped"), Outcome.WRONG_MODE)
    inbox.claims.mark_dead(claim(inbox, "evt_dead"), "gave_up", Failure("no"))
    inbox.claims.fail(claim(inbox, "evt_pending"), Failure("no", delay=0))
    claim(inbox, "evt_running")
    for each in ids(inbox) - {"evt_new"}:
        age(each, 50)

    before = inbox.retention.days_ago(45)
    assert inbox.retention.count(before) == 2
    assert remove(inbox, 45) == 2
    assert ids(inbox) == {"evt_new", "evt_dead", "evt_pending", "evt_running"}
    assert inbox.retention.count(before) == 0


def test_event_that_ended_lately_stays(inbox: Inbox, age: Callable[..., None]) -> None:
    """An event that was received long ago, and run again yesterday, counts from yesterday."""
    done(inbox, "evt_1", "evt_2")
    age("evt_1", 50, "received_at")
    assert remove(inbox, 45) == 0
    assert ids(inbox) == {"evt_1", "evt_2"}


@pytest.mark.parametrize(("handled", "dead"), [("evt_s", "evt_n"), ("evt_n", "evt_s")])
def test_event_stays_while_the_other_one_of_its_pair_can_run(
    inbox: Inbox, age: Callable[..., None], handled: str, dead: str
) -> None:
    """A retry of the dead one finds that the action is handled."""
    failed = claim(inbox, dead)
    done(inbox, handled)
    inbox.pairs.note("evt_n", "evt_s")
    inbox.claims.mark_dead(failed, "gave_up", Failure("no"))
    for each in (handled, dead):
        age(each, 50)
    done(inbox, "evt_new")
    assert inbox.retention.count(inbox.retention.days_ago(40)) == 0
    assert remove(inbox, 40) == 0
    retried = inbox.claims.claim_one(dead, by="me")
    assert retried is not None
    assert inbox.pairs.hold(retried, "evt_s") is Hold.TWIN_SUCCEEDED
    inbox.claims.finish(retried, Outcome.TWIN)
    age(dead, 50, "settled_at")
    assert remove(inbox, 40) == 2


def test_erased_event_is_removed(inbox: Inbox, age: Callable[..., None]) -> None:
    """It can never run again, so no person needs it, also if it was dead."""
    done(inbox, "evt_new")
    inbox.claims.mark_dead(claim(inbox, "evt_dead"), "gave_up", Failure("no"))
    age("evt_dead", 50)
    assert remove(inbox, 45) == 0
    event = inbox.administration.find("evt_dead")
    assert event is not None
    assert inbox.erasure.erase(event, "cus_1") is True
    assert remove(inbox, 45) == 1


def test_attempts_retries_and_effects_go_with_their_event(
    inbox: Inbox, database_url: str, age: Callable[..., None]
) -> None:
    """Nothing is left of a removed event, and all of the others."""
    for event_id in ("evt_old", "evt_new"):
        inbox.claims.fail(claim(inbox, event_id), Failure("first", delay=0))
        done(inbox, event_id)
        raw_sql.note_retry(database_url, event_id)
        inbox.effects.record(event_id, "mail")
        inbox.pairs.note(event_id, f"evt_snapshot of {event_id}")
        held = {"key": f"evt_snapshot of {event_id}", "id": event_id}
        raw_sql.execute(
            database_url, "INSERT INTO stripe_receiver_pair_holds VALUES (:key, :id, 't')", held
        )
    age("evt_old", 50)
    assert remove(inbox, 45) == 1
    for table in (
        *("attempts", "retries", "stripe_receiver_effects"),
        *("stripe_receiver_pair_holds", "stripe_receiver_thin_events"),
    ):
        rows = raw_sql.select(database_url, table)
        assert len(rows) == 1
        assert any("evt_new" in str(value) for value in rows[0])


def test_steps_cover_all_events_once(
    inbox: Inbox, age: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step looks at a few events, and the next one begins after them, also after dead ones."""
    monkeypatch.setattr(retaining, "ROWS", 2)
    done(inbox, *(f"evt_{number}" for number in range(5)))
    for event_id in ("evt_dead_1", "evt_dead_2"):
        inbox.claims.mark_dead(claim(inbox, event_id), "gave_up", Failure("no"))
        age(event_id, 60)
    for number in range(4):
        age(f"evt_{number}", 50)
    before, steps = inbox.retention.days_ago(45), []
    place: Place | None = START
    while place is not None:
        step = inbox.retention.step(before, place)
        steps.append(step.removed)
        place = step.next
    assert steps == [0, 2, 2, 0]
    assert ids(inbox) == {"evt_4", "evt_dead_1", "evt_dead_2"}


class TestClock:
    """A clock that steps ahead removes nothing."""

    def test_clock_that_is_furthest_behind_decides(
        self, inbox: Inbox, age: Callable[..., None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """That can be the clock of this process, or the latest receipt."""
        done(inbox, "evt_1", "evt_2")
        assert inbox.retention.days_ago(0) == pytest.approx(time.time(), abs=60)
        with monkeypatch.context() as patch:
            # A mock: no test may set the clock of the machine.
            patch.setattr(time, "time", lambda: 1000.0)
            assert inbox.retention.days_ago(0) == 1000.0
        for each in ("evt_1", "evt_2"):
            age(each, 100)
        assert inbox.retention.days_ago(0) == pytest.approx(time.time() - 100 * 86400, abs=60)
        assert remove(inbox, 45) == 0

    def test_empty_inbox(self, inbox: Inbox) -> None:
        """It has no receipt to go by, and nothing to remove."""
        assert inbox.retention.days_ago(0) == pytest.approx(time.time(), abs=60)
        assert remove(inbox, 0) == 0
