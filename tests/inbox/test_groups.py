"""Error groups: which attempts are counted, what a group shows, and the releases."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.errors import InboxUnavailable
from app.inbox import Claim, Failure, Inbox, NewEvent
from app.inbox.groups import HOUR, GroupHour, Groups
from app.inbox.models import Count
from app.inbox.sql import groups as statements
from app.states import Outcome
from tests.support import raw_sql

EVENT = NewEvent("evt_1", "v1.customer.created", livemode=False, context=None, body=b"{}")
FAILURE = Failure(
    "KeyError: 'a'",
    fingerprint="f00d",
    release="1.4.2",
    exception="KeyError",
    place="handlers/v1_customer_created.py:31",
)
OTHER = replace(FAILURE, fingerprint="beef", exception="stripe.CardError", release="1.5.0")

#: The statements of a replica of revision 0005, which knows no fingerprint.
CLAIM_0005 = """
    UPDATE events SET state = 'running', claimed_by = 'old', attempt = attempt + 1, outcome = NULL,
        lease_until = 9e9
    WHERE id = 'evt_1'
"""
FAIL_0005 = """
    UPDATE events SET state = 'pending', outcome = 'failed', settled_at = claimed_at + 1
    WHERE id = 'evt_1' AND claimed_by = 'old'
"""
FINISH_0005 = """
    UPDATE events SET state = 'done', outcome = 'handled', settled_at = claimed_at + 1
    WHERE id = 'evt_1' AND claimed_by = 'old'
"""


def claim(inbox: Inbox, event_id: str = "evt_1", event_type: str = EVENT.type) -> Claim:
    """Claim an event, also from an orphan."""
    event = replace(EVENT, id=event_id, type=event_type)
    found = inbox.deliveries.record_and_claim(event).claim
    assert found is not None
    return found


def fail(inbox: Inbox, failure: Failure = FAILURE, event_id: str = "evt_1") -> None:
    """Let an attempt of the event fail."""
    assert inbox.claims.fail(claim(inbox, event_id), failure)


def counts(inbox: Inbox) -> dict[str, tuple[int, int]]:
    """Return the failed attempts and the open events of each group."""
    found = inbox.groups.list(10)
    return {each.fingerprint: (each.attempts, each.open.number) for each in found}


class TestCounts:
    """Each failed attempt is counted once, in the group of its error."""

    def test_result_after_a_release_is_counted(self, inbox: Inbox) -> None:
        """A stop released the event, and its callback ended all the same."""
        claimed = claim(inbox)
        inbox.claims.release(claimed, 0.0)
        for _ in range(2):  # the statement is sent again when its answer was lost
            assert inbox.claims.fail(claimed, FAILURE)

        assert counts(inbox) == {"f00d": (1, 1)}

    def test_result_of_a_lost_claim_is_not_counted(self, inbox: Inbox, database_url: str) -> None:
        """Another attempt took the event over, and has a result of its own."""
        lost = claim(inbox)
        raw_sql.orphan(database_url)
        fail(inbox, OTHER)
        assert not inbox.claims.fail(lost, FAILURE)

        assert counts(inbox) == {"crashed.v1.customer.created": (1, 0), "beef": (1, 1)}

    def test_interrupted_attempt_has_no_group(self, inbox: Inbox) -> None:
        """No exception ended it, and the event is in the group of no earlier attempt."""
        fail(inbox)
        inbox.claims.fail(claim(inbox), Failure("interrupted"))

        assert counts(inbox) == {"f00d": (1, 0)}

    def test_event_is_open_in_the_group_of_its_latest_failure(self, inbox: Inbox) -> None:
        """While it runs, and after a success, it is open in none."""
        fail(inbox)
        fail(inbox, OTHER)
        assert counts(inbox) == {"f00d": (1, 0), "beef": (1, 1)}

        claimed = claim(inbox)
        assert counts(inbox)["beef"] == (1, 0)
        assert inbox.claims.finish(claimed)
        assert counts(inbox)["beef"] == (1, 0)

    def test_dead_event_that_a_person_retries_stays_open(self, inbox: Inbox) -> None:
        """It leaves the group when its next attempt begins, and is counted again if that fails."""
        inbox.claims.mark_dead(claim(inbox), Outcome.GAVE_UP, FAILURE)
        assert inbox.administration.reopen("evt_1", by="me")
        assert counts(inbox) == {"f00d": (1, 1)}

        claimed = inbox.claims.claim_one("evt_1", by="me")
        assert claimed is not None
        assert counts(inbox) == {"f00d": (1, 0)}
        inbox.claims.mark_dead(claimed, Outcome.GAVE_UP, FAILURE)
        assert counts(inbox) == {"f00d": (2, 1)}

    def test_crash_of_a_person_s_retry_is_counted(self, inbox: Inbox, database_url: str) -> None:
        """Each way to claim an orphan counts the crash before it."""
        fail(inbox)
        for _ in range(2):
            claimed = inbox.claims.claim_one("evt_1", by="me")
            assert claimed is not None
            raw_sql.orphan(database_url)
        assert inbox.claims.claim_one("evt_1", by="me") is not None

        assert counts(inbox) == {"f00d": (1, 0), "crashed.v1.customer.created": (2, 0)}

    def test_delivery_of_a_poisonous_event_counts_its_last_crash(
        self, inbox: Inbox, database_url: str
    ) -> None:
        """The delivery marks the event dead: it is open in the group of the crashes of its type."""
        for _ in range(5):
            claim(inbox)
            raw_sql.orphan(database_url)
        for _ in range(2):
            assert inbox.deliveries.record_and_claim(EVENT).outcome == Outcome.CRASHED

        assert counts(inbox) == {"crashed.v1.customer.created": (5, 1)}
        again = inbox.claims.claim_one("evt_1", by="me")
        assert again is not None
        assert inbox.claims.finish(again)
        assert counts(inbox) == {"crashed.v1.customer.created": (5, 0)}


class TestOlderReplicas:
    """A replica of the version before runs events beside this one. It records no groups."""

    def test_its_failures_are_in_no_group(self, inbox: Inbox, database_url: str) -> None:
        """Its claim does not clear the group of the attempt before. A trigger does."""
        fail(inbox)
        raw_sql.execute(database_url, CLAIM_0005)
        raw_sql.execute(database_url, FAIL_0005)
        assert counts(inbox) == {"f00d": (1, 0)}

        fail(inbox, OTHER)
        kept = [(each.fingerprint, each.release) for each in inbox.administration.attempts("evt_1")]
        assert kept == [("f00d", "1.4.2"), (None, None), ("beef", "1.5.0")]

    def test_its_success_ends_the_failure(self, inbox: Inbox, database_url: str) -> None:
        """A done event has no group."""
        fail(inbox)
        raw_sql.execute(database_url, CLAIM_0005)
        raw_sql.execute(database_url, FINISH_0005)

        event = inbox.administration.find("evt_1")
        assert event is not None
        assert (event.state, event.fingerprint, event.release) == ("done", None, None)

    def test_its_crash_is_counted(self, inbox: Inbox, database_url: str) -> None:
        """The claim after the crash is one of this version."""
        fail(inbox)
        raw_sql.execute(database_url, CLAIM_0005)
        raw_sql.orphan(database_url)
        assert inbox.claims.claim_one("evt_1", by="me") is not None

        assert counts(inbox) == {"f00d": (1, 0), "crashed.v1.customer.created": (1, 0)}


class TestWords:
    """The exception and the place of a group, which the process writes after the count."""

    def test_place_is_that_of_the_latest_release(self, inbox: Inbox) -> None:
        """The line moved, and the group is the same."""
        fail(inbox)
        fail(inbox, replace(FAILURE, place="handlers/v1_customer_created.py:40"))

        group = inbox.groups.find("f00d")
        assert group is not None
        assert (group.exception, group.place) == ("KeyError", "handlers/v1_customer_created.py:40")

    def test_outage_after_the_count_costs_the_words_only(
        self, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The result is recorded, and the next failure of the group writes them."""

        def unavailable(*_arguments: object) -> None:
            raise InboxUnavailable("the inbox is not available", reason="down")

        with monkeypatch.context() as patch:
            # A mock: no outage can be timed between two statements.
            patch.setattr(Groups, "note", unavailable)
            fail(inbox)
        group = inbox.groups.find("f00d")
        assert group is not None
        assert (group.exception, group.place, group.attempts) == (None, None, 1)

        fail(inbox, event_id="evt_2")
        group = inbox.groups.find("f00d")
        assert group is not None
        assert (group.exception, group.attempts) == ("KeyError", 2)


class TestLists:
    """The groups for a person."""

    def test_latest_failure_comes_first(self, inbox: Inbox, database_url: str) -> None:
        """With the type, the event and the release of that failure."""
        fail(inbox, OTHER)
        fail(inbox)
        raw_sql.execute(
            database_url,
            "UPDATE stripe_receiver_error_groups SET first_at = last_at - 9, last_at = last_at - 9",
        )
        inbox.claims.fail(claim(inbox, "evt_2", "v1.invoice.paid"), FAILURE)

        first, second = inbox.groups.list(10)
        assert (first.fingerprint, second.fingerprint) == ("f00d", "beef")
        assert (first.type, first.event_id, first.release) == ("v1.invoice.paid", "evt_2", "1.4.2")
        assert first.first_at < first.last_at
        assert inbox.groups.list(1) == [first]
        assert inbox.groups.list(10, since=first.last_at) == [first]
        assert inbox.groups.list(10, since=first.last_at + 1) == []
        assert inbox.groups.find("beef") == second
        assert inbox.groups.find("f00") is None

    def test_number_of_open_events_has_a_bound(
        self, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The list is never late, and says so."""
        for number in range(3):
            fail(inbox, event_id=f"evt_{number}")
        assert [each.open for each in inbox.groups.list(1)] == [Count(3)]

        # No mock: a lower bound of the same list. The statement counts up to the other one.
        monkeypatch.setattr(statements, "MOST_OPEN_IN_LIST", 2)
        (group,) = inbox.groups.list(1)
        assert group.open == Count(2, is_bounded=True)
        assert str(group.open) == "2+"

    def test_hours_and_releases(self, inbox: Inbox, database_url: str) -> None:
        """Each release has its own count in an hour. A crash has no release."""
        fail(inbox)
        fail(inbox)
        fail(inbox, replace(FAILURE, release="1.5.0"))
        fail(inbox, replace(FAILURE, release=None))
        raw_sql.execute(
            database_url, "UPDATE stripe_receiver_error_hours SET hour = 7 WHERE release = '1.5.0'"
        )
        found = inbox.groups.find("f00d")
        assert found is not None
        hour = int(found.last_at // HOUR)

        assert inbox.groups.hours("f00d", 0.0) == [
            GroupHour(7, "1.5.0", 1),
            GroupHour(hour, "", 1),
            GroupHour(hour, "1.4.2", 2),
        ]
        assert len(inbox.groups.hours("f00d", 8.0 * HOUR)) == 2
        assert inbox.groups.hours("beef", 0.0) == []
        releases = [
            (each.release, each.attempts, each.first_hour, each.last_hour)
            for each in inbox.groups.releases(["f00d"])["f00d"]
        ]
        assert releases == [("", 1, hour, hour), ("1.4.2", 2, hour, hour), ("1.5.0", 1, 7, 7)]

    def test_releases_of_each_group_are_bounded(self, inbox: Inbox, database_url: str) -> None:
        """A group that fails in each release for years is listed with the latest 100."""
        inbox.migrate()
        rows = [f"('{group}', {hour}, 'r{hour}', 1)" for group in "ab" for hour in range(101)]
        raw_sql.execute(
            database_url,
            "INSERT INTO stripe_receiver_error_hours (fingerprint, hour, release, attempts)"  # noqa: S608 - the test's own words
            f" VALUES {', '.join(rows)}",
        )
        found = inbox.groups.releases("ab")
        assert found["a"] == found["b"]
        assert [each.release for each in found["a"]] == [f"r{hour}" for hour in range(100, 0, -1)]


def test_release_begins_once(inbox: Inbox, database_url: str) -> None:
    """Each process records it at its start. The first time stays."""
    inbox.migrate()
    inbox.groups.begin_release("")
    assert raw_sql.select(database_url, "stripe_receiver_releases") == []

    inbox.groups.begin_release("1.4.2")
    ((release, first_at),) = raw_sql.select(database_url, "stripe_receiver_releases")
    assert (release, first_at > 0) == ("1.4.2", True)
    inbox.groups.begin_release("1.4.2")
    other = Inbox(database_url, lease_seconds=600)
    other.groups.begin_release("1.4.2")
    other.close()

    assert raw_sql.select(database_url, "stripe_receiver_releases") == [("1.4.2", first_at)]
