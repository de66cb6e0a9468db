"""What the inbox does for reconciliation: on both databases, in single statements."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from app.inbox import Claim, Failure, Inbox, NewEvent, Outcome
from app.reconcile.reconciler import BEFORE
from tests.support import raw_sql

EVENT = NewEvent(
    "evt_1",
    "v1.customer.created",
    livemode=False,
    context="acct_1",
    body=b"{}",
    concurrency_key="cus_1",
)


@pytest.fixture
def make_inbox(database_url: str) -> Iterator[Callable[..., Inbox]]:
    """A function that opens the test's database, with claims of so many seconds."""
    opened: list[Inbox] = []

    def make(lease_seconds: float = 600, max_crashes: int = 3) -> Inbox:
        opened.append(Inbox(database_url, lease_seconds=lease_seconds, max_crashes=max_crashes))
        return opened[-1]

    yield make
    for inbox in opened:
        inbox.close()


@pytest.fixture
def inbox(make_inbox: Callable[..., Inbox]) -> Inbox:
    """An inbox whose leases do not end during a test."""
    return make_inbox()


def claim_open(inbox: Inbox, event_id: str = "evt_1", *, livemode: bool = False) -> Claim | None:
    """Claim what a process with a test key would."""
    return inbox.claims.claim_unfinished(event_id, livemode=livemode)


class TestBringBack:
    """An event that no delivery brought is recorded once."""

    def test_it_is_pending_and_says_where_it_came_from(self, inbox: Inbox) -> None:
        """Nobody delivered it, nobody ran it, and a worker can take it."""
        assert inbox.reconciliation.backfill(EVENT) is True
        event = inbox.administration.find("evt_1")
        assert event is not None
        assert (event.state, event.source, event.deliveries) == ("pending", "reconcile", 0)
        assert (event.context, event.concurrency_key, event.body) == ("acct_1", "cus_1", b"{}")
        claim = inbox.claims.claim_due(livemode=False)
        assert claim is not None
        assert (claim.event_id, claim.attempt) == ("evt_1", 1)

    @pytest.mark.parametrize("state", ["pending", "running", "done", "dead", "brought back"])
    def test_what_is_there_stays_as_it_is(self, inbox: Inbox, state: str) -> None:
        """A delivery that was faster is not disturbed, whatever became of it."""
        if state == "brought back":
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

    def test_delivery_that_comes_later_is_of_the_same_event(self, inbox: Inbox) -> None:
        """It counts as a delivery, and runs the event if nobody has yet."""
        inbox.reconciliation.backfill(EVENT)
        accepted = inbox.deliveries.record_and_claim(EVENT)
        assert accepted.claim is not None
        event = inbox.administration.find("evt_1")
        assert event is not None
        assert (event.deliveries, event.source) == (1, "reconcile")

    def test_event_of_the_other_mode_is_put_aside(self, inbox: Inbox) -> None:
        """As a delivery of it would be."""
        inbox.reconciliation.backfill(replace(EVENT, livemode=True), skipped=True)
        event = inbox.administration.find("evt_1")
        assert event is not None
        assert (event.state, event.outcome, event.source) == ("done", "wrong_mode", "reconcile")
        assert inbox.claims.claim_due(livemode=True) is None

    def test_what_came_by_a_delivery_says_so(self, inbox: Inbox) -> None:
        """In all three ways."""
        inbox.deliveries.record_and_claim(EVENT)
        inbox.deliveries.enqueue(replace(EVENT, id="evt_2"))
        inbox.deliveries.record_skipped(replace(EVENT, id="evt_3"), Outcome.WRONG_MODE)
        assert {event.source for event in inbox.administration.latest(10)} == {"delivery"}

    def test_which_are_known(self, inbox: Inbox) -> None:
        """Of many ids those that the inbox has, in whatever state."""
        inbox.reconciliation.backfill(EVENT)
        inbox.deliveries.record_and_claim(replace(EVENT, id="evt_2"))
        assert inbox.reconciliation.known([f"evt_{number}" for number in range(1000)]) == {
            "evt_1",
            "evt_2",
        }


class TestOpen:
    """What was brought back is run until it is settled, by one at a time."""

    def test_in_their_order(self, inbox: Inbox) -> None:
        """The first one first; those of deliveries and of the other mode are left out."""
        for place, number in enumerate((3, 1, 2)):
            inbox.reconciliation.backfill(
                replace(EVENT, id=f"evt_{number}"), backdate_seconds=(3 - place) * BEFORE
            )
        inbox.deliveries.enqueue(replace(EVENT, id="evt_4"))
        inbox.reconciliation.backfill(replace(EVENT, id="evt_5", livemode=True))
        assert inbox.reconciliation.unfinished_ids(livemode=False) == ["evt_3", "evt_1", "evt_2"]
        assert inbox.reconciliation.unfinished_ids(livemode=True) == ["evt_5"]
        order = [inbox.claims.claim_due(livemode=False) for _ in range(3)]
        assert [claim and claim.event_id for claim in order] == ["evt_3", None, None]  # one object

    def test_it_is_claimed_once(self, inbox: Inbox) -> None:
        """While it runs and when it is done nobody else gets it."""
        inbox.reconciliation.backfill(EVENT)
        claim = claim_open(inbox)
        assert claim is not None
        assert (claim.event_id, claim.attempt, claim.context) == ("evt_1", 1, "acct_1")
        assert claim_open(inbox) is None
        assert inbox.deliveries.record_and_claim(EVENT).claim is None
        inbox.claims.finish(claim)
        assert claim_open(inbox) is None
        assert inbox.reconciliation.unfinished_ids(livemode=False) == []

    def test_what_is_not_open_cannot_be_claimed(self, inbox: Inbox) -> None:
        """Not one of a delivery, of the other mode, or that is not there."""
        inbox.deliveries.enqueue(EVENT)
        inbox.reconciliation.backfill(replace(EVENT, id="evt_2"))
        assert claim_open(inbox) is None
        assert claim_open(inbox, "evt_2", livemode=True) is None
        assert claim_open(inbox, "evt_3") is None

    @pytest.mark.parametrize(("delay", "ids"), [(0.0, ["evt_1"]), (600.0, [])])
    def test_failed_one_is_open_again_when_it_is_due(
        self, inbox: Inbox, delay: float, ids: list[str]
    ) -> None:
        """The callback may have asked for some time."""
        inbox.reconciliation.backfill(EVENT)
        claim = claim_open(inbox)
        assert claim is not None
        inbox.claims.fail(claim, Failure("no", delay=delay))
        assert inbox.reconciliation.unfinished_ids(livemode=False) == ids
        assert (claim_open(inbox) is not None) == bool(ids)

    def test_one_whose_process_died_is_taken_a_few_times(
        self, make_inbox: Callable[..., Inbox]
    ) -> None:
        """And then given up on: it may be what kills them."""
        inbox = make_inbox(lease_seconds=-1, max_crashes=3)
        inbox.reconciliation.backfill(EVENT)
        for attempt in (1, 2, 3, None):
            claim = claim_open(inbox)
            assert (claim and claim.attempt) == attempt
            raw_sql.abandon(inbox)
        assert inbox.reconciliation.unfinished_ids(livemode=False) == []
        buried = inbox.claims.mark_poison_dead()
        assert buried is not None
        assert (buried["event_id"], buried["context"]) == ("evt_1", "acct_1")


class TestWatermarks:
    """How far each type was read, for each account and mode."""

    @staticmethod
    def advance(inbox: Inbox, begin: float, end: float, type_: str = "a") -> bool:
        """Record that a type of acct_1 was read."""
        return inbox.reconciliation.advance_watermark(
            livemode=False, context="acct_1", type_=type_, begin=begin, end=end
        )

    def test_each_has_its_own(self, inbox: Inbox) -> None:
        """By mode, account and type."""
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
    def test_it_moves_on_and_leaves_no_gap(
        self, inbox: Inbox, begin: float, end: float, reached: float
    ) -> None:
        """It goes neither back nor over what was not read."""
        self.advance(inbox, 0, 10)
        assert self.advance(inbox, begin, end) == (reached == 20)
        assert inbox.reconciliation.watermarks(livemode=False, context="acct_1") == {"a": reached}


class TestLeader:
    """Of all processes one does what only one may do."""

    def test_one_has_it_until_its_term_ends(
        self, make_inbox: Callable[..., Inbox], database_url: str
    ) -> None:
        """It may keep it; another one gets it when the first let its term end."""
        one, other = make_inbox(), make_inbox()
        assert one.reconciliation.acquire_leadership("x", "one", 600) is True
        assert one.reconciliation.acquire_leadership("x", "one", 600) is True
        assert other.reconciliation.acquire_leadership("x", "other", 600) is False
        assert other.reconciliation.acquire_leadership("y", "other", 600) is True
        raw_sql.execute(database_url, "UPDATE leaders SET until = until - 601")
        assert other.reconciliation.acquire_leadership("x", "other", 600) is True
        assert one.reconciliation.acquire_leadership("x", "one", 600) is False
