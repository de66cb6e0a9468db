"""The inbox as a queue: the order of claims, crashes, history, retries, notifications."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from app.inbox import Claim, Failure, Inbox, NewEvent, Outcome
from app.inbox.filters import EventFilter
from app.inbox.models import Count
from tests.support import raw_sql
from tests.support.inboxes import MakeInbox
from tests.support.waiting import wait_for

EVENT = NewEvent(
    "evt_1",
    "v1.customer.created",
    livemode=False,
    context="acct_1",
    body=b"{}",
    concurrency_key="cus_1",
)
LONG, SHORT = 600.0, -1.0
"""Leases: one that expires in no test, and one that has expired before the next statement."""


def numbered(number: int, key: str = "") -> NewEvent:
    """Return an event with its own id, and its own concurrency key unless one is given."""
    return replace(EVENT, id=f"evt_{number}", concurrency_key=key)


def due(inbox: Inbox) -> Claim | None:
    """Claim a due event, as a worker with a test key."""
    return inbox.claims.claim_due(livemode=False)


def take(inbox: Inbox) -> Claim:
    """Claim the due event that there has to be."""
    claim = due(inbox)
    assert claim is not None
    return claim


def state(inbox: Inbox, event_id: str = "evt_1") -> tuple[str, str | None]:
    """Return state and outcome of an event."""
    event = inbox.administration.find(event_id)
    assert event is not None
    return event.state, event.outcome


def outcomes(inbox: Inbox, event_id: str = "evt_1") -> list[tuple[int, str]]:
    """Return number and outcome of the attempts that have ended."""
    return [(each.attempt, each.outcome) for each in inbox.administration.attempts(event_id)]


class TestRecording:
    """A delivery in queue mode."""

    def test_new_event_is_pending_and_due(self, inbox: Inbox) -> None:
        """It is recorded without a claim, and the next worker gets it with its bytes."""
        accepted = inbox.deliveries.enqueue(EVENT)

        assert (accepted.state, accepted.attempt, accepted.claim) == ("pending", 0, None)
        claim = take(inbox)
        assert (claim.event_id, claim.attempt, claim.body) == ("evt_1", 1, b"{}")
        assert (claim.context, claim.attempts_used) == ("acct_1", 0)

    def test_later_deliveries_are_counted_and_change_nothing(self, inbox: Inbox) -> None:
        """The event keeps its state."""
        inbox.deliveries.enqueue(EVENT)
        claim = take(inbox)
        assert inbox.deliveries.enqueue(EVENT).state == "running"
        inbox.claims.finish(claim)
        assert inbox.deliveries.enqueue(EVENT).state == "done"

        event = inbox.administration.find("evt_1")
        assert event is not None
        assert (event.state, event.outcome, event.deliveries) == ("done", "handled", 3)

    def test_failed_event_keeps_its_due_time(self, inbox: Inbox) -> None:
        """A redelivery does not make it due earlier than its back-off says."""
        inbox.deliveries.enqueue(EVENT)
        inbox.claims.fail(take(inbox), Failure("no", delay=LONG))
        assert inbox.deliveries.enqueue(EVENT).state == "pending"

        assert due(inbox) is None

    def test_event_of_the_wrong_mode_is_queued_when_it_comes_in_the_right_one(
        self, inbox: Inbox
    ) -> None:
        """It never ran, so a delivery after the key was corrected queues it."""
        inbox.deliveries.record_skipped(EVENT, Outcome.WRONG_MODE)
        assert due(inbox) is None
        assert inbox.deliveries.enqueue(EVENT).state == "pending"

        assert take(inbox).event_id == "evt_1"


class TestOrder:
    """The event that is claimed next."""

    def test_longest_due_comes_first(self, inbox: Inbox) -> None:
        """Events are claimed in the order of their due times."""
        for number in range(3):
            inbox.deliveries.enqueue(numbered(number))

        assert [take(inbox).event_id for _ in range(3)] == ["evt_0", "evt_1", "evt_2"]
        assert due(inbox) is None

    def test_other_mode_is_not_claimed(self, inbox: Inbox) -> None:
        """Callbacks get the key of this process, which is for its mode only."""
        inbox.deliveries.enqueue(replace(EVENT, livemode=True))

        assert due(inbox) is None
        assert inbox.claims.claim_due(livemode=True) is not None

    def test_two_events_of_one_key_do_not_run_at_once(self, inbox: Inbox) -> None:
        """The second one waits for the first. Events of other keys do not wait."""
        inbox.deliveries.enqueue(numbered(1, "cus_1"))
        inbox.deliveries.enqueue(numbered(2, "cus_1"))
        inbox.deliveries.enqueue(numbered(3, "cus_2"))

        first = take(inbox)
        assert (first.event_id, take(inbox).event_id) == ("evt_1", "evt_3")
        assert due(inbox) is None
        inbox.claims.finish(first)

        assert take(inbox).event_id == "evt_2"

    def test_failed_event_does_not_block_its_key(self, inbox: Inbox) -> None:
        """While it waits for its next attempt, later events of its key run."""
        inbox.deliveries.enqueue(numbered(1, "cus_1"))
        inbox.deliveries.enqueue(numbered(2, "cus_1"))
        inbox.claims.fail(take(inbox), Failure("no", delay=LONG))

        assert take(inbox).event_id == "evt_2"

    def test_inline_run_locks_no_key(self, inbox: Inbox) -> None:
        """An event that runs in inline mode blocks no worker."""
        assert inbox.deliveries.record_and_claim(numbered(1, "cus_1")).claim is not None
        inbox.deliveries.enqueue(numbered(2, "cus_1"))

        assert take(inbox).event_id == "evt_2"

    def test_many_workers_never_get_two_events_of_one_key(self, make_inbox: MakeInbox) -> None:
        """Eight threads run 60 events of 6 keys: each once, and one per key at a time."""
        inboxes = [make_inbox() for _ in range(4)]
        for number in range(60):
            inboxes[0].deliveries.enqueue(numbered(number, f"cus_{number % 6}"))
        running: dict[str, str] = {}
        overlaps: list[str] = []
        done: list[str] = []

        def work(number: int) -> None:
            inbox = inboxes[number % 4]
            while len(done) < 60:
                claim = due(inbox)
                if claim is None:
                    continue
                subject = f"cus_{int(claim.event_id.removeprefix('evt_')) % 6}"
                if running.setdefault(subject, claim.event_id) != claim.event_id:
                    overlaps.append(claim.event_id)
                del running[subject]
                inbox.claims.finish(claim)
                done.append(claim.event_id)

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(work, range(8)))

        assert overlaps == []
        assert sorted(done) == sorted(f"evt_{number}" for number in range(60))

    def test_locked_event_blocks_its_key(self, postgresql_url: str) -> None:
        """While another worker claims the first event of a key, the second is not claimed.

        The row is locked here as by a claim that is not committed yet.
        """
        inbox = Inbox(postgresql_url, lease_seconds=LONG)
        for number, subject in ((1, "cus_1"), (2, "cus_1"), (3, "cus_2")):
            inbox.deliveries.enqueue(numbered(number, subject))
        engine = raw_sql.make_engine(postgresql_url)

        with engine.begin() as other:
            other.exec_driver_sql("SELECT id FROM events WHERE id = 'evt_1' FOR UPDATE")
            assert take(inbox).event_id == "evt_3"
            assert due(inbox) is None
        assert take(inbox).event_id == "evt_1"
        assert due(inbox) is None
        engine.dispose()
        inbox.close()

    def test_paused_workers_claim_nothing(self, make_inbox: MakeInbox) -> None:
        """No process claims a due event or an orphan until the workers are resumed."""
        inbox = make_inbox(SHORT)
        inbox.deliveries.enqueue(EVENT)
        take(inbox)
        raw_sql.abandon(inbox)
        inbox.deliveries.enqueue(numbered(2))

        assert inbox.administration.pause(by="me", why="deploy") is True
        assert inbox.administration.pause(by="you", why=None) is False
        other = make_inbox()
        paused = other.administration.paused()
        assert paused is not None
        assert (paused.by, paused.why) == ("me", "deploy")
        assert due(other) is None
        assert other.claims.claim_orphan(livemode=False) is None

        assert other.administration.resume(by="me") is True
        assert other.administration.resume(by="me") is False
        assert other.administration.paused() is None
        assert due(other) is not None
        assert other.claims.claim_orphan(livemode=False) is not None


class TestCrashes:
    """Claims whose process crashed."""

    def test_orphan_is_rescued(self, make_inbox: MakeInbox) -> None:
        """It is not claimed as soon as its lease expired, and not as a due event."""
        inbox = make_inbox(SHORT)
        inbox.deliveries.enqueue(EVENT)
        first = take(inbox)
        assert inbox.claims.claim_orphan(livemode=False) is None
        raw_sql.abandon(inbox)
        assert due(inbox) is None

        second = inbox.claims.claim_orphan(livemode=False)
        assert second is not None
        assert second.attempt == 2
        assert inbox.claims.finish(first) is False
        assert inbox.claims.finish(second) is True
        assert outcomes(inbox) == [(1, "crashed"), (2, "handled")]

    def test_key_of_an_orphan_stays_locked(self, make_inbox: MakeInbox) -> None:
        """Its process may only be slow. Other events of its key wait until it is rescued."""
        inbox = make_inbox(SHORT)
        inbox.deliveries.enqueue(numbered(1, "cus_1"))
        inbox.deliveries.enqueue(numbered(2, "cus_1"))
        take(inbox)

        assert due(inbox) is None

    def test_poison_is_marked_dead(self, make_inbox: MakeInbox) -> None:
        """After ``max_crashes`` consecutive crashes the event is dead and not run again."""
        inbox = make_inbox(SHORT, max_crashes=3)
        inbox.deliveries.enqueue(EVENT)
        take(inbox)
        assert inbox.claims.mark_poison_dead() is None
        for _ in range(2):
            raw_sql.abandon(inbox)
            assert inbox.claims.claim_orphan(livemode=False) is not None
        raw_sql.abandon(inbox)
        assert inbox.claims.claim_orphan(livemode=False) is None

        assert inbox.claims.mark_poison_dead() == {
            "event_id": "evt_1",
            "event_type": "v1.customer.created",
            "attempt": 3,
            "context": "acct_1",
        }
        assert inbox.claims.mark_poison_dead() is None
        assert state(inbox) == ("dead", "crashed")
        assert outcomes(inbox) == [(1, "crashed"), (2, "crashed"), (3, "crashed")]

    def test_delivery_marks_poison_dead(self, make_inbox: MakeInbox) -> None:
        """In inline mode the delivery that would run it again finds it dead."""
        inbox = make_inbox(SHORT, max_crashes=2)
        for _ in range(2):
            assert inbox.deliveries.record_and_claim(EVENT).claim is not None
            raw_sql.abandon(inbox)

        last = inbox.deliveries.record_and_claim(EVENT)
        assert (last.state, last.outcome, last.claim) == ("dead", "crashed", None)
        event = inbox.administration.find("evt_1")
        assert event is not None
        assert event.reason == "its process crashed or hung in each of the last attempts"
        assert event.settled_at is not None

    def test_failure_resets_crashes(self, make_inbox: MakeInbox) -> None:
        """Only consecutive crashes count. After a failure the process was alive."""
        inbox = make_inbox(SHORT, max_crashes=2)
        inbox.deliveries.enqueue(EVENT)
        take(inbox)
        raw_sql.abandon(inbox)
        second = inbox.claims.claim_orphan(livemode=False)
        assert second is not None
        inbox.claims.fail(second, Failure("no"))
        take(inbox)
        raw_sql.abandon(inbox)

        assert inbox.claims.mark_poison_dead() is None
        assert inbox.claims.claim_orphan(livemode=False) is not None

    def test_settled_event_has_no_lease_seconds(self, inbox: Inbox) -> None:
        """A replica of an older version can claim it next, with a longer lease."""
        inbox.deliveries.enqueue(EVENT)
        inbox.claims.fail(take(inbox), Failure("no"))

        event = inbox.administration.find("evt_1")
        assert event is not None
        assert event.lease_seconds is None

    def test_release_is_no_crash_and_no_failure(self, inbox: Inbox) -> None:
        """A stop gives the claim back. The event is due after the delay."""
        inbox.deliveries.enqueue(EVENT)
        inbox.claims.release(take(inbox), 0.0)

        again = take(inbox)
        assert (again.attempt, again.attempts_used) == (2, 0)
        inbox.claims.release(again, LONG)
        assert due(inbox) is None
        assert outcomes(inbox) == [(1, "released"), (2, "released")]

    def test_success_after_a_release_counts(self, inbox: Inbox) -> None:
        """The callback may succeed a moment later. It counts unless the event was claimed again."""
        inbox.deliveries.enqueue(EVENT)
        first = take(inbox)
        inbox.claims.release(first, 0.0)
        assert inbox.claims.finish(first) is True
        assert state(inbox) == ("done", "handled")

        inbox.deliveries.enqueue(numbered(2))
        first = take(inbox)
        inbox.claims.release(first, 0.0)
        second = take(inbox)
        assert inbox.claims.finish(first) is False
        assert inbox.claims.finish(second) is True

    def test_success_of_a_dead_event_does_not_count(self, make_inbox: MakeInbox) -> None:
        """The event was reported dead, so its claim is lost."""
        inbox = make_inbox(SHORT, max_crashes=1)
        inbox.deliveries.enqueue(EVENT)
        claim = take(inbox)
        raw_sql.abandon(inbox)
        assert inbox.claims.mark_poison_dead() is not None

        assert inbox.claims.finish(claim) is False
        assert state(inbox) == ("dead", "crashed")


class TestHistory:
    """Every attempt is kept."""

    def test_attempt_has_start_end_outcome_and_traceback(self, inbox: Inbox) -> None:
        """A failed attempt has a reason and a traceback, a successful one has neither."""
        inbox.deliveries.enqueue(EVENT)
        inbox.claims.fail(take(inbox), Failure("ValueError: no", "Traceback ...", attempts_used=1))
        claim = take(inbox)
        inbox.claims.finish(claim)

        first, second = inbox.administration.attempts("evt_1")
        assert (first.outcome, first.reason) == ("failed", "ValueError: no")
        assert first.traceback == "Traceback ..."
        assert (second.outcome, second.reason, second.traceback) == ("handled", None, None)
        assert first.started_at <= first.ended_at <= second.started_at <= second.ended_at
        assert second.claimed_by == claim.token
        assert claim.attempts_used == 1

    def test_inline_attempts_are_kept_as_well(self, inbox: Inbox) -> None:
        """A trigger of the database writes the history in both modes."""
        claim = inbox.deliveries.record_and_claim(EVENT).claim
        assert claim is not None
        inbox.claims.finish(claim)
        inbox.claims.finish(claim)  # sent again, because its answer was lost

        assert outcomes(inbox) == [(1, "handled")]

    def test_history_goes_with_its_event(self, inbox: Inbox, database_url: str) -> None:
        """Deleting an event deletes its attempts and retries."""
        inbox.deliveries.enqueue(EVENT)
        inbox.claims.finish(take(inbox))
        inbox.administration.reopen("evt_1", by="me", why=None, again=True)
        raw_sql.execute(database_url, "DELETE FROM events")

        assert inbox.administration.attempts("evt_1") == []
        assert inbox.administration.retries("evt_1") == []


class TestRetries:
    """Retries by a person."""

    def test_dead_event_becomes_due_as_if_new(self, inbox: Inbox) -> None:
        """It is due now with all its attempts, and the retry is noted with name and reason."""
        inbox.deliveries.enqueue(EVENT)
        inbox.claims.mark_dead(take(inbox), "exhausted", Failure("no", attempts_used=9))
        assert due(inbox) is None

        assert inbox.administration.reopen("evt_1", by="me", why="mended") is True
        claim = take(inbox)
        assert (claim.attempt, claim.attempts_used) == (2, 0)
        (note,) = inbox.administration.retries("evt_1")
        assert (note.by, note.why) == ("me", "mended")

    def test_done_event_is_run_again_only_if_forced(self, inbox: Inbox) -> None:
        """A done event is run again only with ``again``."""
        inbox.deliveries.enqueue(EVENT)
        inbox.claims.finish(take(inbox))

        assert inbox.administration.reopen("evt_1", by="me") is False
        assert inbox.claims.claim_one("evt_1", by="me") is None
        assert inbox.administration.reopen("evt_1", by="me", again=True) is True
        assert take(inbox).attempt == 2

    def test_seen_event(self, inbox: Inbox) -> None:
        """With ``seen``, a done event is run again only if no attempt came after."""
        inbox.deliveries.enqueue(EVENT)
        inbox.claims.finish(take(inbox))
        seen = inbox.administration.find("evt_1")
        assert inbox.administration.reopen("evt_1", by="me", again=True, seen=seen) is True
        inbox.claims.finish(take(inbox))

        assert inbox.administration.reopen("evt_1", by="me", again=True, seen=seen) is False
        assert inbox.claims.claim_one("evt_1", by="me", again=True, seen=seen) is None
        assert len(inbox.administration.retries("evt_1")) == 1
        seen = inbox.administration.find("evt_1")
        assert inbox.claims.claim_one("evt_1", by="me", again=True, seen=seen) is not None

    def test_event_that_no_module_ran(self, inbox: Inbox) -> None:
        """An event that the fallback took is run without ``again``, a handled one is not."""
        inbox.deliveries.enqueue(EVENT)
        inbox.claims.finish(take(inbox), Outcome.FALLBACK)

        claim = inbox.claims.claim_one("evt_1", by="me")
        assert claim is not None
        inbox.claims.finish(claim)
        assert inbox.claims.claim_one("evt_1", by="me") is None

    def test_running_event_cannot_be_retried(self, inbox: Inbox) -> None:
        """An event never runs twice at once."""
        inbox.deliveries.enqueue(EVENT)
        take(inbox)

        assert inbox.administration.reopen("evt_1", by="me", again=True) is False
        assert inbox.claims.claim_one("evt_1", by="me", again=True) is None

    def test_one_event_can_be_claimed_by_its_id(self, inbox: Inbox) -> None:
        """A command can claim it whether it is due or not."""
        inbox.deliveries.enqueue(EVENT)
        inbox.claims.fail(take(inbox), Failure("no", delay=LONG))

        claim = inbox.claims.claim_one("evt_1", by="me")
        assert claim is not None
        assert inbox.claims.finish(claim) is True
        again = inbox.claims.claim_one("evt_1", by="me", again=True)
        assert again is not None
        assert inbox.claims.finish(again) is True
        assert outcomes(inbox) == [(1, "failed"), (2, "handled"), (3, "handled")]


class TestFilter:
    """The filters of a person."""

    def test_each_condition_selects(self, inbox: Inbox) -> None:
        """Filters are state, type, account and time of receipt, in both orders."""
        inbox.deliveries.enqueue(numbered(1))
        inbox.deliveries.enqueue(replace(numbered(2), type="v1.invoice.paid", context=None))
        inbox.claims.finish(take(inbox))

        def ids(matching: EventFilter, limit: int = 9, *, oldest_first: bool = False) -> list[str]:
            found = inbox.administration.select(matching, limit, oldest_first=oldest_first)
            assert inbox.administration.count(matching).number >= len(found)
            return [event.id for event in found]

        assert ids(EventFilter()) == ["evt_2", "evt_1"]
        assert ids(EventFilter(), oldest_first=True) == ["evt_1", "evt_2"]
        assert ids(EventFilter(), limit=1) == ["evt_2"]
        assert ids(EventFilter(state="done")) == ["evt_1"]
        assert ids(EventFilter(type="v1.invoice.paid")) == ["evt_2"]
        assert ids(EventFilter(context="acct_1")) == ["evt_1"]
        assert ids(EventFilter(since=4e9)) == []
        assert inbox.administration.count(EventFilter(since=1.0)) == Count(2)


class TestNotifications:
    """Notifications of other processes that an event is due."""

    def test_notification_reaches_another_process_on_postgresql(self, postgresql_url: str) -> None:
        """A listener is called when another connection notifies, and ends when it is to stop."""
        sender, listener = (Inbox(postgresql_url, lease_seconds=1) for _ in range(2))
        sender.migrate()
        called, stopping = threading.Event(), threading.Event()
        thread = threading.Thread(target=listener.claims.listen, args=[called.set, stopping])
        thread.start()
        try:

            def heard() -> bool:
                sender.deliveries.notify()  # the first ones may come before it listens
                return called.is_set()

            wait_for(heard)
        finally:
            stopping.set()
            thread.join(30)
            sender.close()
            listener.close()

        assert not thread.is_alive()

    def test_notifications_are_rate_limited(
        self, postgresql_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A burst of deliveries notifies once."""
        # Longer than any uptime: the first notification must not be limited.
        monkeypatch.setattr("app.inbox.deliveries.NOTIFY_SECONDS", 1e9)
        inbox = Inbox(postgresql_url, lease_seconds=1)
        inbox.deliveries.notify()
        notified_at = inbox.deliveries._notified_at  # noqa: SLF001 - no other way
        inbox.deliveries.notify()
        inbox.close()

        assert inbox.deliveries._notified_at == notified_at > 0  # noqa: SLF001 - as above

    def test_sqlite_has_no_notifications(self, sqlite_url: str) -> None:
        """Notifying and listening do nothing there. Workers poll."""
        inbox = Inbox(sqlite_url, lease_seconds=1)
        inbox.deliveries.notify()
        inbox.claims.listen(lambda: pytest.fail("a notification"), threading.Event())
        inbox.close()
