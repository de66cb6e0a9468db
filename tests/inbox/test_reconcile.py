"""The inbox for the reconciler, on both databases."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.inbox import Claim, Failure, Inbox, NewEvent, Outcome
from app.reconcile.reconciler import ORDER_GAP_SECONDS
from tests.support import raw_sql
from tests.support.inboxes import MakeInbox

EVENT = NewEvent(
    "evt_1",
    "v1.customer.created",
    livemode=False,
    context="acct_1",
    body=b"{}",
    concurrency_key="cus_1",
)


def claim_unfinished(
    inbox: Inbox, event_id: str = "evt_1", *, livemode: bool = False
) -> Claim | None:
    """Claim an unfinished event, as a process with a test key."""
    return inbox.claims.claim_unfinished(event_id, livemode=livemode)


class TestBackfill:
    """An event that no delivery brought is recorded once."""

    def test_it_is_pending_with_its_source(self, inbox: Inbox) -> None:
        """It has no delivery and no attempt, and a worker can claim it."""
        assert inbox.reconciliation.backfill(EVENT) is True
        event = inbox.administration.find("evt_1")
        assert event is not None
        assert (event.state, event.source, event.deliveries) == ("pending", "reconcile", 0)
        assert (event.context, event.concurrency_key, event.body) == ("acct_1", "cus_1", b"{}")
        claim = inbox.claims.claim_due(livemode=False)
        assert claim is not None
        assert (claim.event_id, claim.attempt) == ("evt_1", 1)

    @pytest.mark.parametrize("state", ["pending", "running", "done", "dead", "backfilled"])
    def test_known_event_stays_unchanged(self, inbox: Inbox, state: str) -> None:
        """An event of a delivery or an earlier backfill keeps its row, in every state."""
        if state == "backfilled":
            inbox.reconciliation.backfill(EVENT)
        else:
            claim = inbox.deliveries.record_and_claim(EVENT).claim
            assert claim is not None
            if state != "running":
                {
                    "pending": lambda: inbox.claims.fail(claim, Failure("no")),
                    "done": lambda: inbox.claims.finish(claim),
                    "dead": lambda: inbox.claims.mark_dead(claim, "gave_up", Failure("never")),
                }[state]()
        before = inbox.administration.find("evt_1")
        assert inbox.reconciliation.backfill(replace(EVENT, body=b"other")) is False
        assert inbox.reconciliation.backfill(replace(EVENT, body=b"other"), skipped=True) is False
        assert inbox.administration.find("evt_1") == before

    def test_later_delivery_is_of_the_same_event(self, inbox: Inbox) -> None:
        """It counts as a delivery, and runs the event if it has not run."""
        inbox.reconciliation.backfill(EVENT)
        accepted = inbox.deliveries.record_and_claim(EVENT)
        assert accepted.claim is not None
        event = inbox.administration.find("evt_1")
        assert event is not None
        assert (event.deliveries, event.source) == (1, "reconcile")

    def test_event_of_the_other_mode_is_skipped(self, inbox: Inbox) -> None:
        """It is recorded as a delivery of it would be."""
        inbox.reconciliation.backfill(replace(EVENT, livemode=True), skipped=True)
        event = inbox.administration.find("evt_1")
        assert event is not None
        assert (event.state, event.outcome, event.source) == ("done", "wrong_mode", "reconcile")
        assert inbox.claims.claim_due(livemode=True) is None

    def test_source_of_a_delivery(self, inbox: Inbox) -> None:
        """Every way to record a delivery notes its source."""
        inbox.deliveries.record_and_claim(EVENT)
        inbox.deliveries.enqueue(replace(EVENT, id="evt_2"))
        inbox.deliveries.record_skipped(replace(EVENT, id="evt_3"), Outcome.WRONG_MODE)
        assert {event.source for event in inbox.administration.latest(10)} == {"delivery"}

    def test_known_ids(self, inbox: Inbox) -> None:
        """The ids that the inbox has are returned, in every state."""
        inbox.reconciliation.backfill(EVENT)
        inbox.deliveries.record_and_claim(replace(EVENT, id="evt_2"))
        assert inbox.reconciliation.known([f"evt_{number}" for number in range(1000)]) == {
            "evt_1",
            "evt_2",
        }


class TestUnfinished:
    """A backfilled event can be claimed until it is settled."""

    def test_order(self, inbox: Inbox) -> None:
        """The first due comes first. Events of deliveries and of the other mode are left out."""
        for place, number in enumerate((3, 1, 2)):
            inbox.reconciliation.backfill(
                replace(EVENT, id=f"evt_{number}"), backdate_seconds=(3 - place) * ORDER_GAP_SECONDS
            )
        inbox.deliveries.enqueue(replace(EVENT, id="evt_4"))
        inbox.reconciliation.backfill(replace(EVENT, id="evt_5", livemode=True))
        assert inbox.reconciliation.unfinished_ids(livemode=False) == ["evt_3", "evt_1", "evt_2"]
        assert inbox.reconciliation.unfinished_ids(livemode=True) == ["evt_5"]
        order = [inbox.claims.claim_due(livemode=False) for _ in range(3)]
        assert [claim and claim.event_id for claim in order] == ["evt_3", None, None]  # one object

    def test_it_is_claimed_once(self, inbox: Inbox) -> None:
        """No second claim gets it while it runs or after it is done."""
        inbox.reconciliation.backfill(EVENT)
        claim = claim_unfinished(inbox)
        assert claim is not None
        assert (claim.event_id, claim.attempt, claim.context) == ("evt_1", 1, "acct_1")
        assert claim_unfinished(inbox) is None
        assert inbox.deliveries.record_and_claim(EVENT).claim is None
        inbox.claims.finish(claim)
        assert claim_unfinished(inbox) is None
        assert inbox.reconciliation.unfinished_ids(livemode=False) == []

    def test_other_events_cannot_be_claimed(self, inbox: Inbox) -> None:
        """An event of a delivery, of the other mode, or an unknown one cannot be claimed."""
        inbox.deliveries.enqueue(EVENT)
        inbox.reconciliation.backfill(replace(EVENT, id="evt_2"))
        assert claim_unfinished(inbox) is None
        assert claim_unfinished(inbox, "evt_2", livemode=True) is None
        assert claim_unfinished(inbox, "evt_3") is None

    @pytest.mark.parametrize(("delay", "ids"), [(0.0, ["evt_1"]), (600.0, [])])
    def test_failed_event_is_unfinished_when_it_is_due(
        self, inbox: Inbox, delay: float, ids: list[str]
    ) -> None:
        """The callback may have asked for a delay."""
        inbox.reconciliation.backfill(EVENT)
        claim = claim_unfinished(inbox)
        assert claim is not None
        inbox.claims.fail(claim, Failure("no", delay=delay))
        assert inbox.reconciliation.unfinished_ids(livemode=False) == ids
        assert (claim_unfinished(inbox) is not None) == bool(ids)

    def test_orphan_is_claimed_until_it_is_poison(self, make_inbox: MakeInbox) -> None:
        """After ``max_crashes`` crashes it is marked dead."""
        inbox = make_inbox(lease_seconds=-1, max_crashes=3)
        inbox.reconciliation.backfill(EVENT)
        for attempt in (1, 2, 3, None):
            claim = claim_unfinished(inbox)
            assert (claim and claim.attempt) == attempt
            raw_sql.abandon(inbox)
        assert inbox.reconciliation.unfinished_ids(livemode=False) == []
        marked = inbox.claims.mark_poison_dead()
        assert marked is not None
        assert (marked["event_id"], marked["context"]) == ("evt_1", "acct_1")


class TestWatermarks:
    """The watermark of each type, for each account and mode."""

    @staticmethod
    def advance(inbox: Inbox, begin: float, end: float, type_: str = "a") -> bool:
        """Record that a type of acct_1 was read."""
        return inbox.reconciliation.advance_watermark(
            livemode=False, context="acct_1", type_=type_, begin=begin, end=end
        )

    def test_watermarks_are_separate(self, inbox: Inbox) -> None:
        """Each mode, account and type has its own watermark."""
        self.advance(inbox, 0, 10)
        self.advance(inbox, 0, 20, "b")
        inbox.reconciliation.advance_watermark(
            livemode=True, context="acct_1", type_="a", begin=0, end=30
        )
        inbox.reconciliation.advance_watermark(
            livemode=False, context="", type_="a", begin=0, end=40
        )
        assert inbox.reconciliation.watermarks(livemode=False, context="acct_1") == {
            "a": 10,
            "b": 20,
        }
        assert inbox.reconciliation.watermarks(livemode=True, context="acct_1") == {"a": 30}
        assert inbox.reconciliation.watermarks(livemode=False, context="") == {"a": 40}
        assert inbox.reconciliation.watermarks(livemode=False, context="acct_2") == {}

    @pytest.mark.parametrize(
        ("begin", "end", "reached"),
        [(5, 20, 20), (10, 20, 20), (11, 20, 10), (0, 9, 10)],
        ids=["overlap", "edge", "gap", "back"],
    )
    def test_watermark_advances_without_a_gap(
        self, inbox: Inbox, begin: float, end: float, reached: float
    ) -> None:
        """It goes neither back nor over a range that was not read."""
        self.advance(inbox, 0, 10)
        assert self.advance(inbox, begin, end) == (reached == 20)
        assert inbox.reconciliation.watermarks(livemode=False, context="acct_1") == {"a": reached}


class TestLeader:
    """One process at a time is the leader."""

    def test_leader_stays_until_its_term_ends(
        self, make_inbox: MakeInbox, database_url: str
    ) -> None:
        """The leader can prolong its term. Another process gets it after the end."""
        one, other = make_inbox(), make_inbox()
        assert one.reconciliation.acquire_leadership("x", "one", 600) is True
        assert one.reconciliation.acquire_leadership("x", "one", 600) is True
        assert other.reconciliation.acquire_leadership("x", "other", 600) is False
        assert other.reconciliation.acquire_leadership("y", "other", 600) is True
        raw_sql.execute(database_url, "UPDATE leaders SET until = until - 601")
        assert other.reconciliation.acquire_leadership("x", "other", 600) is True
        assert one.reconciliation.acquire_leadership("x", "one", 600) is False

    def test_new_term_has_its_own_length(self, make_inbox: MakeInbox, database_url: str) -> None:
        """A longer term after a shorter one is not mistaken for one from before a step back."""
        one, other = make_inbox(), make_inbox()
        assert one.reconciliation.acquire_leadership("x", "one", 60) is True
        assert one.reconciliation.acquire_leadership("x", "one", 600) is True
        assert other.reconciliation.has_leader("x") is True
        assert other.reconciliation.acquire_leadership("x", "other", 60) is False
        # A replica of an earlier version began the term.
        raw_sql.execute(database_url, "UPDATE leaders SET seconds = NULL")
        assert other.reconciliation.has_leader("x") is True

    def test_shorter_term_does_not_end_a_longer_one(
        self, make_inbox: MakeInbox, database_url: str
    ) -> None:
        """Two processes can have different intervals. A step back of the clock ends a term."""
        one, other = make_inbox(), make_inbox()
        assert one.reconciliation.acquire_leadership("x", "one", 600) is True
        assert other.reconciliation.acquire_leadership("x", "other", 60) is False
        assert other.reconciliation.has_leader("x") is True
        raw_sql.execute(database_url, "UPDATE leaders SET until = until + 3600")
        assert other.reconciliation.has_leader("x") is False
        assert other.reconciliation.acquire_leadership("x", "other", 60) is True
        assert one.reconciliation.acquire_leadership("x", "one", 600) is False
