"""Transactions of several statements: batches, and statements that fail alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from app.errors import InboxUnavailable
from app.inbox import Failure, Inbox, Outcome, RecordedEvent
from app.inbox.engine import sqlite
from app.inbox.engine.transaction import Transactions
from app.inbox.sql.batch import FORMS
from app.inbox.sql.settling import FINISH, FINISH_BY_FALLBACK
from app.states import SUCCESSES
from tests.support import raw_sql
from tests.support.writing import numbered, together, trace, words


def refusal(act: Callable[[], object]) -> str:
    """Return why ``act`` is refused by the inbox, or ``written``."""
    try:
        act()
    except InboxUnavailable as error:
        return error.reason
    return "written"


def wrong_write(inbox: Inbox) -> Callable[[], object]:
    """Return a write that fails. No statement of the inbox does."""
    wrong = sa.text("INSERT INTO events (id) VALUES ('evt_wrong')")
    return partial(inbox._store.engine.execute, wrong, {})  # noqa: SLF001 - no other way


def test_failing_statement_fails_alone(sqlite_url: str) -> None:
    """Of statements written together, the wrong one fails and the others are kept."""
    inbox = Inbox(sqlite_url, lease_seconds=30)
    inbox.migrate()
    record = inbox.deliveries.record_and_claim

    results = together(
        inbox,
        partial(refusal, partial(record, numbered(0))),
        partial(refusal, wrong_write(inbox)),
        partial(refusal, partial(record, numbered(1))),
        partial(refusal, partial(record, numbered(2))),
    )

    assert "NOT NULL constraint failed" in results.pop(1)
    assert results == ["written"] * 3
    assert {event.id for event in inbox.administration.latest(100)} == {"evt_0", "evt_1", "evt_2"}
    inbox.close()


def test_lock_of_another_tool_fails_all_statements(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a shell holds SQLite's own lock all that wait fail, and none is written later."""
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_MS", 50)
    inbox = Inbox(sqlite_url, lease_seconds=30)
    inbox.check()
    shell = sqlite.driver.connect(tmp_path / "var" / "inbox.sqlite3", isolation_level=None)
    shell.execute("BEGIN IMMEDIATE")

    refused = together(
        inbox,
        *[
            partial(refusal, partial(inbox.deliveries.record_and_claim, numbered(each)))
            for each in range(3)
        ],
    )
    shell.execute("ROLLBACK")
    shell.close()

    assert refused == ["OperationalError: database is locked"] * 3
    inbox.check()
    assert inbox.administration.latest(10) == []
    inbox.close()


def test_lock_of_another_tool_is_waited_for_once(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it comes between two statements that are written alone, the rest is not tried."""
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_MS", 50)
    inbox = Inbox(sqlite_url, lease_seconds=30)
    inbox.check()
    file = tmp_path / "var" / "inbox.sqlite3"
    shell = sqlite.driver.connect(file, isolation_level=None, check_same_thread=False)
    tried: list[str] = []
    run_one = Transactions._run_one  # noqa: SLF001 - no other way to be there in that moment

    def run_and_lock(transactions: Transactions, connection: Any, write: Any) -> None:
        if tried.count("evt_0") == 2 and not shell.in_transaction:
            shell.execute("BEGIN IMMEDIATE")  # when the first one has been written alone
        tried.append(write.parameters.get("id", "wrong"))
        run_one(transactions, connection, write)

    monkeypatch.setattr(Transactions, "_run_one", run_and_lock)
    record = inbox.deliveries.record_and_claim
    results = together(
        inbox,
        partial(refusal, partial(record, numbered(0))),
        partial(refusal, wrong_write(inbox)),
        partial(refusal, partial(record, numbered(1))),
        partial(refusal, partial(record, numbered(2))),
    )
    monkeypatch.undo()
    shell.execute("ROLLBACK")
    shell.close()

    assert results == ["written", *["OperationalError: database is locked"] * 3]
    assert tried == ["wrong", "evt_0", "wrong", "evt_0", "wrong"]
    inbox.check()
    assert [event.id for event in inbox.administration.latest(10)] == ["evt_0"]
    inbox.close()


def test_commit_without_a_success_is_synced(sqlite_url: str) -> None:
    """A 2xx for a skipped, dead or queued event rests on its row alone. That commit is synced."""
    inbox = Inbox(sqlite_url, lease_seconds=30)
    claims = [inbox.deliveries.record_and_claim(numbered(n)).claim for n in range(2)]
    statements = trace(inbox)

    def synced(act: Callable[[], object]) -> list[str]:
        statements.clear()
        act()
        # A trigger is traced as a comment, and its statement a second time at its end.
        found = [each.split() for each in dict.fromkeys(statements) if not each.startswith("--")]
        return [each[-1] if each[0] == "PRAGMA" else each[0] for each in found]

    first, second = claims
    assert first is not None
    assert second is not None
    aside, recorded = numbered(3), numbered(4)
    assert synced(lambda: inbox.claims.finish(first)) == ["UPDATE"]
    assert synced(lambda: inbox.claims.mark_dead(second, "gave_up", Failure("no plan"))) == [
        "FULL",
        "UPDATE",
    ]
    assert synced(lambda: inbox.deliveries.record_and_claim(numbered(5))) == ["NORMAL", "INSERT"]
    assert synced(lambda: inbox.deliveries.record_skipped(aside, Outcome.WRONG_MODE)) == [
        "FULL",
        "INSERT",
    ]
    assert synced(lambda: inbox.deliveries.enqueue(recorded)) == ["INSERT"]
    assert synced(inbox.check) == ["NORMAL", "INSERT"]
    inbox.close()


def test_known_event_among_new_ones(sqlite_url: str) -> None:
    """Events that are recorded together are counted once each, and only new ones are claimed.

    One of the new ones comes twice.
    """
    inbox = Inbox(sqlite_url, lease_seconds=30)
    inbox.deliveries.record_and_claim(numbered(1))
    arrived = [0, 1, 2, 2, 3]

    accepted = together(
        inbox, *[partial(inbox.deliveries.record_and_claim, numbered(each)) for each in arrived]
    )

    assert [each.claim is not None for each in accepted] == [True, False, True, False, True]
    assert [each.state for each in accepted] == ["running"] * 5
    deliveries = {event.id: event.deliveries for event in inbox.administration.latest(10)}
    assert deliveries == {"evt_0": 1, "evt_1": 2, "evt_2": 2, "evt_3": 1}
    inbox.close()


def test_many_of_which_one_is_known_are_one_transaction(sqlite_url: str) -> None:
    """A redelivery in a burst does not split the transaction of the others."""
    inbox = Inbox(sqlite_url, lease_seconds=30)
    inbox.deliveries.enqueue(numbered(1))
    statements = trace(inbox)

    together(inbox, *[partial(inbox.deliveries.enqueue, numbered(each)) for each in range(3)])

    assert words(statements)[-5:] == ["BEGIN", "INSERT", "INSERT", "INSERT", "COMMIT"]
    inbox.close()


def test_batch_returns_what_single_statements_return(sqlite_url: str) -> None:
    """An event that is recorded in a batch has the same row and result as one recorded alone."""
    inbox = Inbox(sqlite_url, lease_seconds=30)
    events = [replace(numbered(each), context="acct_1", body=b"{%d}" % each) for each in range(6)]
    alone = inbox.deliveries.record_and_claim(events[0])
    assert alone.claim is not None

    accepted = together(
        inbox, *[partial(inbox.deliveries.record_and_claim, event) for event in events[1:4]]
    )
    recorded = together(inbox, *[partial(inbox.deliveries.enqueue, event) for event in events[4:]])

    for answer, event in zip(accepted, events[1:4], strict=True):
        claim = replace(alone.claim, event_id=event.id, body=event.body, token=answer.claim.token)
        assert answer == replace(alone, claim=claim)
        found, first = inbox.administration.find(event.id), inbox.administration.find("evt_0")
        assert found is not None
        assert first is not None
        times = {"received_at", "due_at", "claimed_at", "lease_until"}
        names = {*times, "id", "body", "claimed_by", "concurrency_key"}
        assert {
            name for name, value in asdict(first).items() if asdict(found)[name] != value
        } <= names
        assert (found.body, found.claimed_by) == (event.body, claim.token)
    assert recorded == [RecordedEvent("pending", None, 0, None)] * 2
    inbox.close()


@pytest.mark.parametrize("outcome", sorted(SUCCESSES))
def test_lost_claim_in_a_batch(sqlite_url: str, outcome: Outcome) -> None:
    """Of claims that are finished together, only the lost one returns False."""
    inbox = Inbox(sqlite_url, lease_seconds=-1)
    lost, first, second = (
        inbox.deliveries.record_and_claim(numbered(each)).claim for each in range(3)
    )
    assert lost is not None
    assert first is not None
    assert second is not None
    raw_sql.abandon(inbox)
    taken = inbox.deliveries.record_and_claim(numbered(0)).claim
    assert taken is not None

    finished = together(
        inbox, *[partial(inbox.claims.finish, each, outcome) for each in (first, lost, second)]
    )

    assert finished == [True, False, True]
    # The result of the first time may have been lost.
    assert together(inbox, partial(inbox.claims.finish, first, outcome)) == [True]
    states = {event.id: (event.state, event.outcome) for event in inbox.administration.latest(10)}
    done = ("done", outcome)
    assert states == {"evt_0": ("running", None), "evt_1": done, "evt_2": done}
    assert together(inbox, partial(inbox.claims.finish, taken)) == [True]
    inbox.close()


def test_statements_of_all_kinds_are_written_together(sqlite_url: str) -> None:
    """Events that are recorded, finished and skipped at one time are one transaction."""
    inbox = Inbox(sqlite_url, lease_seconds=30)
    claim = inbox.deliveries.record_and_claim(numbered(0)).claim
    assert claim is not None
    statements = trace(inbox)

    together(
        inbox,
        partial(inbox.deliveries.record_and_claim, numbered(1)),
        partial(inbox.claims.finish, claim),
        partial(inbox.deliveries.record_and_claim, numbered(2)),
        partial(inbox.deliveries.enqueue, numbered(3)),
        partial(inbox.deliveries.record_skipped, numbered(4), Outcome.WRONG_MODE),
    )

    found = words([each for each in statements if not each.startswith("--")])
    begin, end = found.index("BEGIN"), found.index("COMMIT")
    # The two claims are one of the three.
    assert sorted(found[begin + 1 : end]) == ["INSERT"] * 3 + ["UPDATE"]
    states = {
        event.id: (event.state, event.deliveries) for event in inbox.administration.latest(10)
    }
    running, pending, done = (("running", 1), ("pending", 1), ("done", 1))
    assert states == {
        "evt_0": ("done", 1),
        "evt_1": running,
        "evt_2": running,
        "evt_3": pending,
        "evt_4": done,
    }
    inbox.close()


@pytest.mark.parametrize("statement", [FINISH, FINISH_BY_FALLBACK])
def test_batch_of_results_uses_the_primary_key(sqlite_url: str, statement: Any) -> None:
    """Finishing several claims looks up each row, and scans no table."""
    inbox = Inbox(sqlite_url, lease_seconds=30)
    inbox.migrate()
    many: Any = FORMS[statement].make(3)
    sql = str(many.compile(raw_sql.make_engine(sqlite_url)))

    with sqlite.driver.connect(sa.make_url(sqlite_url).database) as connection:
        plan = connection.execute(f"EXPLAIN QUERY PLAN {sql}", ["x"] * 9).fetchall()

    assert ["USING INDEX sqlite_autoindex_events_1 (id=?)" in step[3] for step in plan] == [True]
    inbox.close()
