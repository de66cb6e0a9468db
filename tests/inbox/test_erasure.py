"""Erasure: which events name an object, what is left of them, and that they never run again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from app.inbox import Claim, Event, Failure, Inbox, NewEvent, Outcome
from app.inbox import erasure as erasing
from tests.support import raw_sql

OBJECT = "cus_Q1w2e3r4"
PLAIN = NewEvent("evt_1", "v1.customer.created", livemode=False, context=None, body=b'{"a": 1}')
ABOUT = replace(PLAIN, body=f'{{"object": "{OBJECT}"}}'.encode())
KEYED = replace(PLAIN, concurrency_key=f"- customer {OBJECT}")


def claim(inbox: Inbox, event: NewEvent) -> Claim:
    """Deliver an event that has to get the claim."""
    found = inbox.deliveries.record_and_claim(event).claim
    assert found is not None
    return found


def found(inbox: Inbox, words: str = OBJECT) -> dict[str, Event]:
    """Return the events that name the object, by id."""
    return {each.id: each for each in inbox.erasure.find(words)}


def erase_all(inbox: Inbox) -> None:
    """Erase everything that names the object."""
    for event in found(inbox).values():
        assert inbox.erasure.erase(event, OBJECT) is True


class TestFind:
    """All that names the object is found, and nothing else."""

    def test_every_place_is_searched(self, inbox: Inbox, database_url: str) -> None:
        """The body, the key, the account, and the texts of each attempt, retry and effect."""
        failure = Failure(f"no plan for {OBJECT}")
        traced = Failure("no", f"KeyError: '{OBJECT}'")
        inbox.claims.finish(claim(inbox, replace(ABOUT, id="evt_body")))
        inbox.claims.finish(claim(inbox, replace(KEYED, id="evt_key")))
        inbox.claims.finish(claim(inbox, replace(PLAIN, id="evt_account", context=OBJECT)))
        inbox.claims.fail(claim(inbox, replace(PLAIN, id="evt_reason")), failure)
        for each in (traced, Failure("other")):
            inbox.claims.fail(claim(inbox, replace(PLAIN, id="evt_attempt")), each)
        inbox.claims.finish(claim(inbox, replace(PLAIN, id="evt_retry")))
        raw_sql.note_retry(database_url, "evt_retry", why=f"{OBJECT} asks")
        inbox.claims.finish(claim(inbox, replace(PLAIN, id="evt_effect")))
        inbox.effects.record("evt_effect", f"greet {OBJECT}")
        inbox.claims.finish(claim(inbox, replace(PLAIN, id="evt_other")))
        inbox.effects.record("evt_other", "greet")
        inbox.deliveries.enqueue(replace(ABOUT, id="evt_binary", body=f"\x00{OBJECT}".encode()))
        names = {"body", "key", "account", "reason", "attempt", "retry", "effect", "binary"}
        assert set(found(inbox)) == {f"evt_{name}" for name in names}

    @pytest.mark.parametrize("longer", [f"{OBJECT}5", f"x{OBJECT}", OBJECT.upper()])
    def test_other_id_that_contains_it(self, inbox: Inbox, longer: str) -> None:
        """Another object is not meant, but a secret that begins with the id is."""
        inbox.deliveries.enqueue(replace(PLAIN, body=longer.encode()))
        assert found(inbox) == {}
        secret = f'"{OBJECT}_secret_1"'
        inbox.deliveries.enqueue(replace(PLAIN, id="evt_2", body=secret.encode()))
        assert set(found(inbox)) == {"evt_2"}

    def test_search_goes_in_steps(self, inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each event is found once, however many steps it takes."""
        monkeypatch.setattr(erasing, "ROWS", 2)
        for number in range(5):
            event = replace(KEYED, id=f"evt_{number}")
            for _ in range(2):
                inbox.claims.fail(claim(inbox, event), Failure(OBJECT))
            inbox.effects.record(event.id, f"greet {OBJECT}")
        events = list(inbox.erasure.find(OBJECT))
        assert sorted(each.id for each in events) == [f"evt_{number}" for number in range(5)]

    def test_event_that_is_removed_meanwhile(
        self, inbox: Inbox, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Retention may remove it between two reads."""
        inbox.deliveries.enqueue(ABOUT)
        # A mock: no other way to stop between the two reads.
        monkeypatch.setattr(inbox.erasure, "_candidates", lambda _words: iter(["evt_1", "evt_2"]))
        raw_sql.execute(database_url, "DELETE FROM events")
        assert found(inbox) == {}


class TestErase:
    """The fact of the event is kept, its content is gone."""

    def test_content_is_gone(self, inbox: Inbox, database_url: str) -> None:
        """Id, type, outcome and times stay. No table has the id, and no person has to act."""
        event = replace(ABOUT, context=f"acct_1/{OBJECT}", concurrency_key=f"- customer {OBJECT}")
        inbox.claims.fail(claim(inbox, event), Failure(OBJECT, f"at {OBJECT}"))
        inbox.claims.mark_dead(claim(inbox, event), "gave_up", Failure(OBJECT, f"at {OBJECT}"))
        raw_sql.note_retry(database_url, "evt_1", why=OBJECT)
        for purpose in ("mail", f"greet {OBJECT}"):
            inbox.effects.record("evt_1", purpose)
        (before,) = found(inbox).values()
        erase_all(inbox)
        after = inbox.administration.find("evt_1")
        assert after is not None
        assert after.erased_at is not None
        assert after == replace(
            before,
            state="done",
            body=b"",
            reason=None,
            traceback=None,
            context=None,
            concurrency_key="event evt_1",
            erased_at=after.erased_at,
        )
        assert [each.outcome for each in inbox.administration.attempts("evt_1")] == [
            "failed",
            "gave_up",
        ]
        effects = [each.purpose for each in inbox.effects.of_event("evt_1")]
        assert sorted(effects) == ["greet [erased]", "mail"]
        for table in ("events", "attempts", "retries", "stripe_receiver_effects"):
            assert OBJECT not in str(raw_sql.select(database_url, table))
        assert found(inbox) == {}

    def test_account_stays(self, inbox: Inbox) -> None:
        """The account of the event is not that of the customer."""
        inbox.claims.finish(claim(inbox, replace(ABOUT, context="acct_1")))
        erase_all(inbox)
        event = inbox.administration.find("evt_1")
        assert event is not None
        assert event.context == "acct_1"

    @pytest.mark.parametrize("state", ["pending", "running", "run again"])
    def test_event_that_can_still_run(self, inbox: Inbox, state: str) -> None:
        """It needs its body. So does one that ran again since it was found."""
        claimed = claim(inbox, ABOUT)
        if state == "pending":
            inbox.claims.fail(claimed, Failure("no"))
        inbox.effects.record("evt_1", OBJECT)
        (event,) = found(inbox).values()
        if state == "run again":
            inbox.claims.finish(claimed)
            again = inbox.claims.claim_one("evt_1", by="me", again=True)
            assert again is not None
            inbox.claims.finish(again)
        assert inbox.erasure.erase(event, OBJECT) is False
        assert inbox.effects.is_recorded("evt_1", OBJECT)
        assert set(found(inbox)) == {"evt_1"}


class TestErasedEvent:
    """It never runs, and no delivery brings its body back."""

    @pytest.mark.parametrize("outcome", ["handled", "fallback", "wrong_mode", "gave_up"])
    def test_it_never_runs_again(self, inbox: Inbox, outcome: str) -> None:
        """Neither a delivery, nor a person, nor reconciliation changes it."""
        if outcome == "wrong_mode":
            inbox.deliveries.record_skipped(ABOUT, Outcome.WRONG_MODE)
        elif outcome == "gave_up":
            inbox.claims.mark_dead(claim(inbox, ABOUT), outcome, Failure("no"))
        else:
            inbox.claims.finish(claim(inbox, ABOUT), Outcome(outcome))
        erase_all(inbox)
        before = inbox.administration.find("evt_1")
        assert before is not None

        assert inbox.deliveries.record_and_claim(ABOUT).claim is None
        assert inbox.deliveries.enqueue(ABOUT).state == before.state
        assert inbox.reconciliation.backfill(ABOUT) is False
        assert inbox.reconciliation.known(["evt_1"]) == {"evt_1"}
        assert inbox.administration.reopen("evt_1", by="me", again=True) is False
        assert inbox.claims.claim_one("evt_1", by="me", again=True) is None
        assert inbox.claims.claim_due(livemode=False) is None
        assert inbox.administration.find("evt_1") == replace(
            before, deliveries=before.deliveries + 2
        )


def test_audit_log_forgets_the_object(inbox: Inbox, database_url: str) -> None:
    """A filter of an earlier action can name it."""
    inbox.check()
    for target, why in ((f"object={OBJECT}", "mended"), ("evt_1", f"for {OBJECT}"), ("evt_2", "x")):
        raw_sql.execute(
            database_url,
            'INSERT INTO stripe_receiver_audit (at, "by", action, target, why)'  # noqa: S608 - the test's own
            f" VALUES (1, 'me', 'retry', '{target}', '{why}')",
        )
    inbox.erasure.erase_audit(OBJECT)
    rows = raw_sql.select(database_url, "stripe_receiver_audit")
    assert sorted((row[4], row[5]) for row in rows if row[4] == "evt_2") == [("evt_2", "x")]
    assert [(row[4], row[5]) for row in rows if row[4] != "evt_2"] == [("erased", None)] * 2
