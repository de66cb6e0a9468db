"""The counts of failed attempts, which a trigger writes."""

from __future__ import annotations

from app.inbox import Claim, Failure, Inbox, NewEvent
from app.states import Outcome
from tests.support import raw_sql

EVENT = NewEvent("evt_1", "v1.customer.created", livemode=False, context=None, body=b"{}")
FAILURE = Failure("KeyError: 'a'", fingerprint="f00d", release="41c9")


def claim(inbox: Inbox) -> Claim:
    """Claim the event, also from an orphan."""
    found = inbox.deliveries.record_and_claim(EVENT).claim
    assert found is not None
    return found


def groups(url: str) -> list[tuple[object, ...]]:
    """Return the fingerprint, exception, type, attempts and release of each group."""
    rows = raw_sql.select(url, "stripe_receiver_error_groups")
    return [(row[0], row[1], row[3], row[6], row[8]) for row in rows]


def hours(url: str) -> list[tuple[object, ...]]:
    """Return the fingerprint, release and attempts of each hour."""
    rows = raw_sql.select(url, "stripe_receiver_error_hours")
    return [(row[0], row[2], row[3]) for row in rows]


def test_each_failed_attempt_is_counted_once(inbox: Inbox, database_url: str) -> None:
    """A result that is sent again counts nothing, and a success neither."""
    first = claim(inbox)
    for _ in range(2):
        assert inbox.claims.fail(first, FAILURE)
    assert inbox.claims.mark_dead(claim(inbox), Outcome.GAVE_UP, FAILURE)
    again = inbox.claims.claim_one("evt_1", by="me")
    assert again is not None
    assert inbox.claims.finish(again)

    assert groups(database_url) == [("f00d", None, "v1.customer.created", 2, "41c9")]
    assert hours(database_url) == [("f00d", "41c9", 2)]
    event = inbox.administration.find("evt_1")
    assert event is not None
    assert (event.fingerprint, event.release) == (None, None)
    kept = [(each.fingerprint, each.release) for each in inbox.administration.attempts("evt_1")]
    assert kept == [("f00d", "41c9"), ("f00d", "41c9"), (None, None)]


def test_released_claims_are_no_failures(inbox: Inbox, database_url: str) -> None:
    """A stop gives a claim back. That is counted in no group."""
    inbox.claims.release(claim(inbox), 0.0)
    assert groups(database_url) == []


def test_crashes_are_a_group_of_their_type(inbox: Inbox, database_url: str) -> None:
    """A crash is counted when another attempt begins, and when the event is marked dead."""
    for _ in range(5):
        claim(inbox)
        raw_sql.orphan(database_url)
    assert inbox.claims.mark_poison_dead() is not None

    name = "crashed.v1.customer.created"
    assert groups(database_url) == [(name, "crashed", "v1.customer.created", 5, None)]
    assert hours(database_url) == [(name, "", 5)]
    event = inbox.administration.find("evt_1")
    assert event is not None
    assert event.fingerprint == name
    assert [each.fingerprint for each in inbox.administration.attempts("evt_1")] == [name] * 5
