"""Coalescing: of several due events of one type and object only the newest runs."""

from __future__ import annotations

import random
import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from app.inbox import Claim, Failure, Inbox, NewEvent
from app.inbox.claim_rules import ClaimRules
from app.inbox.sql import coalescing
from tests.support import raw_sql
from tests.support.inboxes import MakeInbox

UPDATED, OTHER = "v1.customer.updated", "v1.customer.created"
RULES = ClaimRules(coalesced=frozenset({UPDATED}))
OBJECT = "- customer cus_1"
EVENT = NewEvent("evt_1", UPDATED, livemode=False, context=None, body=b"{}", concurrency_key=OBJECT)


@pytest.fixture
def make_inbox(make_inbox: MakeInbox) -> MakeInbox:
    """A function that opens the test's database, in a process with these rules."""

    def make(rules: ClaimRules = RULES) -> Inbox:
        return make_inbox(rules=lambda: rules)

    return make


def enqueue(inbox: Inbox, *ids: str, **changes: object) -> None:
    """Record events of the object, in this order."""
    for each in ids:
        inbox.deliveries.enqueue(replace(EVENT, id=each, **changes))  # type: ignore[arg-type]  # each test changes fields


def claim(inbox: Inbox) -> Claim:
    """Claim a due event, as a worker with a test key."""
    found = inbox.claims.claim_due(livemode=False)
    assert found is not None
    return found


def outcome(inbox: Inbox, event_id: str) -> tuple[str, str | None]:
    """Return the state and the outcome of an event."""
    event = inbox.administration.find(event_id)
    assert event is not None
    return event.state, event.outcome


SUPERSEDED = ("done", "superseded")


def test_newest_runs_and_the_others_are_superseded(inbox: Inbox) -> None:
    """Each superseded event names the one that runs, and its attempt is in the history."""
    enqueue(inbox, "evt_1", "evt_2", "evt_3")

    found = claim(inbox)

    assert (found.event_id, found.body, found.superseded) == ("evt_3", b"{}", 2)
    for each in ("evt_1", "evt_2"):
        assert outcome(inbox, each) == SUPERSEDED
        event = inbox.administration.find(each)
        assert event is not None
        assert event.reason == "superseded by evt_3"
        assert (event.locked_key, event.lease_until, event.claimed_by) == (None, None, None)
        (attempt,) = inbox.administration.attempts(each)
        assert attempt.outcome == "superseded"
    assert inbox.claims.finish(found)
    assert outcome(inbox, "evt_3") == ("done", "handled")
    assert inbox.claims.claim_due(livemode=False) is None


def test_another_type_of_the_object_is_not_superseded(make_inbox: MakeInbox) -> None:
    """Both types coalesce. The newest event of each one runs."""
    inbox = make_inbox(ClaimRules(coalesced=frozenset({UPDATED, OTHER})))
    enqueue(inbox, "evt_1", "evt_2")
    enqueue(inbox, "evt_3", "evt_4", type=OTHER)

    first = claim(inbox)
    assert (first.event_id, first.superseded) == ("evt_2", 1)
    assert outcome(inbox, "evt_3") == outcome(inbox, "evt_4") == ("pending", None)
    assert inbox.claims.finish(first)
    second = claim(inbox)
    assert (second.event_id, second.superseded) == ("evt_4", 1)


def test_newest_that_fails_is_retried_alone(inbox: Inbox) -> None:
    """It fetches the current state at its retry. If it dies, its error is shown."""
    enqueue(inbox, "evt_1", "evt_2")
    first = claim(inbox)
    assert inbox.claims.fail(first, Failure("no"))

    second = claim(inbox)

    assert (second.event_id, second.attempt, second.superseded) == ("evt_2", 2, 0)
    assert outcome(inbox, "evt_1") == SUPERSEDED


def test_error_of_a_superseded_event_is_kept(inbox: Inbox) -> None:
    """An event that failed before is superseded once it is due again. Its history shows both."""
    enqueue(inbox, "evt_1")
    assert inbox.claims.fail(claim(inbox), Failure("no", traceback="KeyError"))
    enqueue(inbox, "evt_2")

    assert claim(inbox).event_id == "evt_2"

    attempts = inbox.administration.attempts("evt_1")
    assert [each.outcome for each in attempts] == ["failed", "superseded"]
    assert attempts[0].reason == "no"
    event = inbox.administration.find("evt_1")
    assert event is not None
    assert (event.traceback, event.crashes) == (None, 0)
    assert event.settled_at is not None


def test_event_that_arrives_during_a_run_runs_afterwards(inbox: Inbox) -> None:
    """What it reports may have happened after the running callback has fetched the object."""
    enqueue(inbox, "evt_1")
    first = claim(inbox)
    enqueue(inbox, "evt_2", "evt_3")

    assert inbox.claims.claim_due(livemode=False) is None
    assert outcome(inbox, "evt_1") == ("running", None)
    assert inbox.claims.finish(first)
    assert (second := claim(inbox)).event_id == "evt_3"
    assert second.superseded == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"type": OTHER},
        {"livemode": True},
        {"context": "acct_1", "concurrency_key": "acct_1 customer cus_1"},
        {"concurrency_key": "- customer cus_2"},
    ],
    ids=["type", "mode", "account", "object"],
)
def test_events_of_others_are_not_superseded(inbox: Inbox, changes: dict[str, object]) -> None:
    """Only events of the same type, object, account and mode count."""
    enqueue(inbox, "evt_other", **changes)
    enqueue(inbox, "evt_1", "evt_2")

    while (found := inbox.claims.claim_due(livemode=False)) is not None:
        assert inbox.claims.finish(found)

    assert outcome(inbox, "evt_1") == SUPERSEDED
    assert outcome(inbox, "evt_other") != SUPERSEDED


def test_later_event_of_another_type_is_not_superseded(inbox: Inbox) -> None:
    """It is of the same object, and due. It runs after the newest of the type."""
    enqueue(inbox, "evt_1", "evt_2")
    enqueue(inbox, "evt_other", type=OTHER)

    first = claim(inbox)

    assert (first.event_id, first.superseded) == ("evt_2", 1)
    assert inbox.claims.finish(first)
    assert claim(inbox).event_id == "evt_other"


def test_events_without_an_object_all_run(inbox: Inbox) -> None:
    """Each can be about something else, though they share a concurrency key."""
    enqueue(inbox, "evt_1", "evt_2", concurrency_key=f"- {UPDATED}")

    assert claim(inbox).event_id == "evt_1"
    assert outcome(inbox, "evt_2") == ("pending", None)


def test_types_without_the_policy_all_run(inbox: Inbox) -> None:
    """A process whose modules do not declare it runs each event."""
    enqueue(inbox, "evt_1", "evt_2", type=OTHER)

    assert claim(inbox).event_id == "evt_1"
    assert outcome(inbox, "evt_2") == ("pending", None)


def test_event_that_a_person_retried_is_not_superseded(inbox: Inbox) -> None:
    """It runs itself, and neither supersedes the others."""
    enqueue(inbox, "evt_1", "evt_2", "evt_3")
    assert inbox.administration.reopen("evt_2", by="jenny")

    first = claim(inbox)
    assert (first.event_id, first.superseded) == ("evt_3", 1)
    assert outcome(inbox, "evt_2") == ("pending", None)
    assert inbox.claims.finish(first)
    enqueue(inbox, "evt_4")
    assert claim(inbox).event_id == "evt_2"
    assert outcome(inbox, "evt_4") == ("pending", None)


def test_superseded_event_can_be_run_by_a_person(inbox: Inbox) -> None:
    """As one that has succeeded: only if that is asked for."""
    enqueue(inbox, "evt_1", "evt_2")
    assert inbox.claims.finish(claim(inbox))

    assert not inbox.administration.reopen("evt_1", by="jenny")
    assert inbox.administration.reopen("evt_1", by="jenny", why="test", again=True)
    assert claim(inbox).event_id == "evt_1"


def test_delayed_and_parked_events_are_not_superseded(inbox: Inbox) -> None:
    """One that waits for its retry, or for the end of a pause, is not due."""
    enqueue(inbox, "evt_1")
    assert inbox.claims.fail(claim(inbox), Failure("no", delay=3600.0))
    enqueue(inbox, "evt_2")
    inbox.administration.pause(by="jenny", why=None, type_=UPDATED)
    assert inbox.administration.park() == 1
    inbox.administration.resume(by="jenny", type_=UPDATED)
    enqueue(inbox, "evt_3")

    assert claim(inbox).superseded == 0
    assert outcome(inbox, "evt_1") == ("pending", "failed")
    assert outcome(inbox, "evt_2") == ("pending", None)


def test_one_claim_supersedes_a_bounded_number(
    make_inbox: MakeInbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest of these runs, and the next claim goes on."""
    monkeypatch.setattr(coalescing, "MOST", 3)
    # Other rules: the statements of each are kept.
    inbox = make_inbox(replace(RULES, limits=frozenset({(UPDATED, 7)})))
    enqueue(inbox, *(f"evt_{number}" for number in range(5)))

    first = claim(inbox)
    assert (first.event_id, first.superseded) == ("evt_2", 2)
    assert inbox.claims.finish(first)
    second = claim(inbox)
    assert (second.event_id, second.superseded) == ("evt_4", 1)
    event = inbox.administration.find("evt_4")
    assert event is not None
    assert event.slot == 1


def test_event_that_another_transaction_holds_is_skipped(inbox: Inbox, database_url: str) -> None:
    """A claim waits for no locked event. It runs later."""
    if database_url.startswith("sqlite"):
        return  # its writers take turns
    enqueue(inbox, "evt_1", "evt_2", "evt_3")

    with raw_sql.locking(database_url, "evt_2"):
        assert claim(inbox).superseded == 1
    assert outcome(inbox, "evt_2") == ("pending", None)


OBJECTS, EVENTS, THREADS = 50, 5_000, 4


@pytest.mark.parametrize("coalesces", [True, False])
def test_burst_of_updates_needs_few_runs(
    make_inbox: MakeInbox, database_url: str, *, coalesces: bool
) -> None:
    """Of 5,000 updates of 50 objects 50 to 150 run, each object's last one or one after it.

    Without the policy all run: 5,000 on SQLite, and 500 on PostgreSQL, where 5,000 take 30 s.
    Threads of two processes claim while half of the updates arrive.
    """
    rules = RULES if coalesces else ClaimRules()
    inboxes = [make_inbox(rules), make_inbox(rules)]
    inboxes[0].migrate()
    count = EVENTS if coalesces or database_url.startswith("sqlite") else EVENTS // 10
    _add_updates(database_url, count // 2)
    runs: list[str] = []
    is_recorded = threading.Event()

    def work(inbox: Inbox) -> None:
        while True:
            is_last = is_recorded.is_set()
            found = inbox.claims.claim_due(livemode=False)
            if found is not None:
                runs.append(found.event_id)
                assert inbox.claims.finish(found)
            elif is_last:
                return

    with ThreadPoolExecutor(THREADS) as pool:
        working = [pool.submit(work, inboxes[number % 2]) for number in range(THREADS)]
        _add_updates(database_url, count - count // 2)
        is_recorded.set()
        for done in working:
            done.result()

    assert len(set(runs)) == len(runs)
    if not coalesces:
        assert len(runs) == count
        return
    assert OBJECTS <= len(runs) <= 3 * OBJECTS
    begun: dict[str, float] = defaultdict(float)
    recorded: dict[str, float] = defaultdict(float)
    for subject, received_at, claimed_at, outcome in _rows(database_url):
        recorded[subject] = max(recorded[subject], received_at)
        if outcome == "handled":
            begun[subject] = max(begun[subject], claimed_at)
    assert len(begun) == OBJECTS
    assert all(begun[each] >= recorded[each] for each in recorded)


def _rows(url: str) -> list[tuple[str, float, float, str]]:
    engine = raw_sql.make_engine(url)
    with engine.connect() as connection:
        sql = "SELECT subject, received_at, claimed_at, outcome FROM events"
        rows = connection.exec_driver_sql(sql).all()
    engine.dispose()
    return [tuple(each) for each in rows]


_NOW = {
    "sqlite": "(julianday('now') - 2440587.5) * 86400.0",
    "postgresql": "EXTRACT(EPOCH FROM statement_timestamp())",
}


def _add_updates(url: str, count: int) -> None:
    """Record so many updates in one statement: 5,000 deliveries would take half a minute."""
    now = _NOW[url.partition("+")[0].partition(":")[0]]
    raw_sql.execute(
        url,
        "INSERT INTO events (id, type, livemode, body, state, attempt, deliveries, received_at,"  # noqa: S608 - the test's own
        " due_at, subject, spent, crashes, source)"
        " WITH RECURSIVE numbers(n) AS"
        f" (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {count})"
        f" SELECT 'evt_{random.getrandbits(32)}_' || n, '{UPDATED}', false, '{{}}', 'pending', 0,"
        f" 1, {now}, {now}, '- customer cus_' || (n % {OBJECTS}), 0, 0, 'delivery' FROM numbers",
    )
