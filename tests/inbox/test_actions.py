"""The actions of operators on many events, the pauses of types, and the audit log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from threading import Barrier
from typing import Any

import pytest
import sqlalchemy as sa

from app.errors import InboxUnavailable
from app.inbox import Claim, Failure, Inbox, NewEvent, Outcome
from app.inbox import actions as actions_module
from app.inbox import pauses as pauses_module
from app.inbox import selection as selection_module
from app.inbox.engine import postgresql_session
from app.inbox.engine.deadline import Connector
from app.inbox.filters import EventFilter
from app.inbox.models import PARKED, Count
from app.inbox.selection import Selection
from app.inbox.sql import claims
from tests.support import raw_sql
from tests.support.inboxes import MakeInbox

CREATED, PAID = "v1.customer.created", "v1.invoice.paid"
EVENT = NewEvent("evt_0", CREATED, livemode=False, context=None, body=b"{}")
HOUR = 3600.0
FAILURE = Failure("KeyError: 'x'", traceback="KeyError", delay=HOUR)


@pytest.fixture
def inbox(make_inbox: MakeInbox, monkeypatch: pytest.MonkeyPatch) -> Inbox:
    """The inbox on each database in turn. Few events take several steps."""
    for module in (actions_module, pauses_module):
        monkeypatch.setattr(module, "STEP", 2)
    return make_inbox()


def enqueue(inbox: Inbox, *numbers: int, type_: str = CREATED) -> None:
    """Record events that wait for a worker."""
    for number in numbers:
        inbox.deliveries.enqueue(replace(EVENT, id=f"evt_{number}", type=type_))


def due(inbox: Inbox) -> Claim | None:
    """Claim a due event, as a worker with a test key."""
    return inbox.claims.claim_due(livemode=False)


def end(inbox: Inbox, count: int, outcome: Outcome) -> None:
    """Run the events that are due, and end each with this outcome."""
    for _ in range(count):
        claim = due(inbox)
        assert claim is not None
        if outcome is Outcome.FAILED:
            inbox.claims.fail(claim, FAILURE)
        elif outcome is Outcome.EXHAUSTED:
            inbox.claims.mark_dead(claim, outcome, FAILURE)
        else:
            inbox.claims.finish(claim, outcome)


def plan(url: str, statement: Any) -> str:
    """Return PostgreSQL's plan of a claim, under the settings with which the service runs it."""
    compiled = statement.compile(dialect=postgresql_session.DIALECT)
    given = {"token": "host:1:a.1", "lease_seconds": 1.0, "livemode": False}
    values = [given[name] for name in compiled.positiontup]
    is_in_order = statement.get_execution_options().get("in_order", False)
    arguments = postgresql_session.arguments(sa.make_url(url))
    with postgresql_session.connect(Connector(), arguments) as connection:
        rows = postgresql_session.execute(
            connection, f"EXPLAIN {compiled}", values, 5000, in_order=is_in_order
        )
        return " ".join(row[0] for row in rows)


def states(inbox: Inbox) -> dict[str, tuple[str, str | None]]:
    """Return state and outcome of each event."""
    return {each.id: (each.state, each.outcome) for each in inbox.administration.latest(100)}


def log(inbox: Inbox) -> list[tuple[str, str | None, str | None, int | None]]:
    """Return the audit log, the first action first, without times and ids."""
    entries = inbox.administration.audit(100)
    assert all(each.by == "me" for each in entries)
    return [(each.action, each.target, each.why, each.affected) for each in entries[::-1]]


class TestRetryMany:
    """``retry_many``: a filter's events are due at once."""

    def test_dead_and_waiting_events_are_due(self, inbox: Inbox) -> None:
        """The oldest come first, up to the limit. Each keeps a record of the operator."""
        enqueue(inbox, 1, 2, 3)
        end(inbox, 3, Outcome.EXHAUSTED)
        enqueue(inbox, 4)
        end(inbox, 1, Outcome.FAILED)
        enqueue(inbox, 5)
        end(inbox, 1, Outcome.HANDLED)
        assert due(inbox) is None

        retry_many = inbox.administration.retry_many
        everything = EventFilter(type=CREATED)
        assert retry_many(everything, by="me", why="mended", limit=3) == 3
        assert [claim.event_id for claim in iter(lambda: due(inbox), None)] == [
            *("evt_1", "evt_2", "evt_3")
        ]
        assert retry_many(everything, by="me", why=None, limit=100) == 1
        claim = due(inbox)
        assert claim is not None
        assert (claim.event_id, claim.attempts_used) == ("evt_4", 0.0)
        assert [note.why for note in inbox.administration.retries("evt_1")] == ["mended"]
        assert inbox.administration.retries("evt_5") == []
        assert log(inbox) == [
            ("retry_many", f"type={CREATED}", "mended", 3),
            ("retry_many", f"type={CREATED}", None, 1),
        ]

    @pytest.mark.parametrize(("waiting", "limit"), [(0, 99), (5, 12)])
    def test_no_event_is_taken_twice(
        self, inbox: Inbox, monkeypatch: pytest.MonkeyPatch, waiting: int, limit: int
    ) -> None:
        """A dead event is pending after its retry, and is not found again in later steps."""
        monkeypatch.setattr(selection_module, "CHUNK", 2)
        monkeypatch.setattr(actions_module, "STEP", 2)
        enqueue(inbox, *range(waiting))
        end(inbox, waiting, Outcome.FAILED)
        enqueue(inbox, *range(waiting, 12))
        end(inbox, 12 - waiting, Outcome.EXHAUSTED)
        enqueue(inbox, 12)
        end(inbox, 1, Outcome.FAILED)
        done = inbox.administration.retry_many(EventFilter(), by="me", why=None, limit=limit)
        assert done == min(limit, 13)
        noted = [len(inbox.administration.retries(f"evt_{each}")) for each in range(13)]
        assert noted == [1] * 12 + [done - 12]

    def test_events_without_a_module_run_again(self, inbox: Inbox) -> None:
        """A done event runs again only if no handler module ran it."""
        enqueue(inbox, 1)
        end(inbox, 1, Outcome.FALLBACK)
        enqueue(inbox, 2)
        end(inbox, 1, Outcome.HANDLED)
        retry_many = inbox.administration.retry_many
        done = EventFilter(state="done")
        assert retry_many(done, by="me", why=None, limit=9) == 1
        assert states(inbox)["evt_1"][0] == "pending"
        assert states(inbox)["evt_2"][0] == "done"
        assert retry_many(EventFilter(outcome="fallback"), by="me", why=None, limit=9) == 1

    def test_event_that_has_just_ended_is_not_run_twice(
        self, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An event that succeeded after it was selected is skipped, and not counted."""
        enqueue(inbox, 1, 2)
        walk = Selection.walk

        def run_meanwhile(self: object, matching: EventFilter) -> Iterator[object]:
            yield from list(walk(self, matching))  # type: ignore[arg-type] # as it is called
            if matching.state == "pending":
                end(inbox, 1, Outcome.FALLBACK)

        # The moment between the search and the change cannot be chosen.
        monkeypatch.setattr(Selection, "walk", run_meanwhile)
        monkeypatch.setattr(actions_module, "STEP", 9)
        waiting = EventFilter(state="pending")
        assert inbox.administration.retry_many(waiting, by="me", why=None, limit=9) == 1
        assert states(inbox)["evt_1"] == ("done", "fallback")


class TestRetryOfOne:
    """``reopen`` and ``claim_one``: one event, as a person has seen it."""

    @pytest.mark.parametrize("act", ["reopen", "claim_one", "give_up", "pause"])
    def test_second_of_two_changes_nothing(
        self, make_inbox: MakeInbox, inbox: Inbox, act: str
    ) -> None:
        """Two people answer one question at once: one of them acts, and only that is recorded."""
        count = 6
        enqueue(inbox, *range(count))
        end(inbox, count, Outcome.FAILED)
        if act in {"reopen", "claim_one"}:
            enqueue(inbox, *range(count, 2 * count))
            end(inbox, count, Outcome.EXHAUSTED)
        seen = inbox.administration.latest(99)
        barrier = Barrier(2)

        def person(own: Inbox) -> list[bool]:
            administration = own.administration
            acts: dict[str, Callable[[Any], object]] = {
                "reopen": lambda each: administration.reopen(each.id, by="me", seen=each),
                "claim_one": lambda each: own.claims.claim_one(each.id, by="me", seen=each),
                "give_up": lambda each: administration.give_up(
                    each.id, by="me", why="x", seen_attempt=each.attempt
                ),
                "pause": lambda each: administration.pause(by="me", why=None, type_=each.id),
            }
            done = []
            for each in seen:
                barrier.wait(60)
                done.append(bool(acts[act](each)))
            return done

        with ThreadPoolExecutor(2) as pool:
            first, second = pool.map(person, (inbox, make_inbox()))
        assert [one + other for one, other in zip(first, second, strict=True)] == [1] * len(seen)
        notes = [len(inbox.administration.retries(each.id)) for each in seen]
        assert notes == [act in {"reopen", "claim_one"}] * len(seen)
        affected = [each.affected for each in inbox.administration.audit(99)]
        assert affected.count(0) == (len(seen) if act in {"give_up", "pause"} else 0)

    def test_parked_event_is_as_seen(self, inbox: Inbox) -> None:
        """Parking rounds the time at which an event is due. A person sees no change."""
        enqueue(inbox, 1)
        seen = inbox.administration.find("evt_1")
        inbox.administration.pause(by="me", why=None, type_=CREATED)
        assert inbox.administration.park() == 1
        assert inbox.administration.reopen("evt_1", by="me", seen=seen) is True

    def test_retry_and_its_record_are_one(self, database_url: str, inbox: Inbox) -> None:
        """If the record cannot be written, the event is not run."""
        enqueue(inbox, 1)
        end(inbox, 1, Outcome.EXHAUSTED)
        raw_sql.execute(database_url, "ALTER TABLE retries RENAME COLUMN why TO reason")
        retry_many = inbox.administration.retry_many
        for act in (
            partial(inbox.administration.reopen, "evt_1", by="me"),
            partial(inbox.claims.claim_one, "evt_1", by="me"),
            partial(retry_many, EventFilter(), by="me", why=None, limit=9),
        ):
            with pytest.raises(InboxUnavailable):
                act()
        raw_sql.execute(database_url, "ALTER TABLE retries RENAME COLUMN reason TO why")
        assert states(inbox) == {"evt_1": ("dead", "exhausted")}
        assert inbox.administration.reopen("evt_1", by="me", why="mended") is True
        assert [each.why for each in inbox.administration.retries("evt_1")] == ["mended"]


class TestGiveUp:
    """``give_up`` and ``give_up_many``: pending events are dead."""

    def test_failing_event_is_given_up(self, inbox: Inbox) -> None:
        """It is dead with the reason. Its last failure stays in the history."""
        enqueue(inbox, 1)
        end(inbox, 1, Outcome.FAILED)
        give_up = inbox.administration.give_up
        assert give_up("evt_1", by="me", why="obsolete", seen_attempt=7) is False
        assert give_up("evt_1", by="me", why="obsolete", seen_attempt=1) is True
        assert give_up("evt_1", by="me", why="again", seen_attempt=None) is False
        event = inbox.administration.find("evt_1")
        assert event is not None
        assert (event.state, event.outcome, event.reason) == ("dead", "gave_up", "obsolete")
        history = inbox.administration.attempts("evt_1")
        assert [(each.outcome, each.reason) for each in history] == [
            *(("failed", "KeyError: 'x'"), ("gave_up", "obsolete"))
        ]
        assert history[0].traceback == "KeyError"
        assert log(inbox) == [
            *(("give_up", "evt_1", "obsolete", 0), ("give_up", "evt_1", "obsolete", 1)),
            ("give_up", "evt_1", "again", 0),
        ]
        assert inbox.alert_facts.dead(event.received_at) == []
        assert inbox.administration.reopen("evt_1", by="me") is True

    def test_event_that_never_ran_is_given_up(self, inbox: Inbox) -> None:
        """The only entry of its history is that of the operator."""
        enqueue(inbox, 1)
        assert inbox.administration.give_up("evt_1", by="me", why="test data") is True
        (attempt,) = inbox.administration.attempts("evt_1")
        assert (attempt.outcome, attempt.claimed_by) == ("gave_up", None)

    def test_released_event_is_given_up_once_its_process_has_ended(self, inbox: Inbox) -> None:
        """Before that, its callback may still run."""
        enqueue(inbox, 1, 2)
        for delay in (HOUR, -1.0):
            claim = due(inbox)
            assert claim is not None
            assert inbox.claims.release(claim, delay)

        assert inbox.administration.give_up("evt_1", by="me", why="obsolete") is False
        assert inbox.administration.give_up("evt_2", by="me", why="obsolete") is True

    def test_many_are_given_up(self, inbox: Inbox) -> None:
        """Only pending events are, the oldest first, up to the limit."""
        enqueue(inbox, 9)
        end(inbox, 1, Outcome.HANDLED)
        enqueue(inbox, 1, 2, 3, 4)
        enqueue(inbox, 5, type_=PAID)
        give_up_many = inbox.administration.give_up_many
        matching = EventFilter(type=CREATED)
        assert give_up_many(matching, by="me", why="obsolete", limit=3) == 3
        assert give_up_many(replace(matching, state="done"), by="me", why="no", limit=9) == 0
        dead = [name for name, (state, _) in states(inbox).items() if state == "dead"]
        assert dead == ["evt_3", "evt_2", "evt_1"]
        assert log(inbox) == [
            ("give_up_many", f"type={CREATED}", "obsolete", 3),
            ("give_up_many", f"state=done&type={CREATED}", "no", 0),
        ]


class TestPausedType:
    """A pause of one event type."""

    def test_other_types_go_on(self, make_inbox: MakeInbox, inbox: Inbox) -> None:
        """No process claims an event of a paused type until it is resumed."""
        administration = inbox.administration
        enqueue(inbox, 1, 2, 3)
        enqueue(inbox, 4, type_=PAID)
        assert administration.pause(by="me", why="broken", type_=CREATED) is True
        assert administration.pause(by="you", why=None, type_=CREATED) is False
        other = make_inbox()
        (note,) = other.administration.paused_types().values()
        assert (note.by, note.why, other.administration.paused()) == ("me", "broken", None)
        claim = due(other)
        assert claim is not None
        assert claim.event_id == "evt_4"
        assert due(other) is None

        assert other.administration.resume(by="me", type_=PAID) is False
        assert other.administration.resume(by="me") is False
        assert other.administration.resume(by="me", why="mended", type_=CREATED) is True
        assert other.administration.paused_types() == {}
        assert [due(other) is not None for _ in range(4)] == [True, True, True, False]

    def test_orphan_is_not_rescued(self, database_url: str, inbox: Inbox) -> None:
        """An orphan of a paused type stays one."""
        enqueue(inbox, 1)
        assert due(inbox) is not None
        raw_sql.orphan(database_url)
        inbox.administration.pause(by="me", why=None, type_=CREATED)
        assert inbox.claims.claim_orphan(livemode=False) is None
        inbox.administration.resume(by="me", type_=CREATED)
        assert inbox.claims.claim_orphan(livemode=False) is not None

    def test_due_events_are_parked(self, database_url: str, inbox: Inbox) -> None:
        """They are out of the way of claims, and due again after the pause, in the same order."""
        administration = inbox.administration
        enqueue(inbox, 1, 2, 3)
        enqueue(inbox, 4, type_=PAID)
        before = {each.id: each.due_at for each in administration.latest(9)}
        administration.pause(by="me", why=None, type_=CREATED)
        assert administration.park() == 3
        assert administration.park() == 0
        times = dict(raw_sql.select(database_url, "(SELECT id, due_at FROM events) AS times"))
        assert sum(time >= PARKED for time in times.values()) == 3
        # Operators see the time at which the event was due.
        rows = administration.page(EventFilter(), limit=9).events
        assert {each.id: each.due_at for each in rows} == pytest.approx(before, abs=1e-4)
        found = administration.find("evt_1")
        assert found is not None
        assert found.due_at == pytest.approx(before["evt_1"], abs=1e-4)

        administration.resume(by="me", type_=CREATED)
        assert administration.park() == 3
        claims = [due(inbox) for _ in range(4)]
        created = [each.event_id for each in claims if each and each.type == CREATED]
        assert created == ["evt_1", "evt_2", "evt_3"]
        assert None not in claims

    def test_another_process_ends_the_pause(self, make_inbox: MakeInbox, inbox: Inbox) -> None:
        """Parked events are due again though the process that resumed the type ended at once."""
        enqueue(inbox, 1)
        enqueue(inbox, 2, type_=PAID)
        for type_ in (CREATED, PAID):
            inbox.administration.pause(by="me", why=None, type_=type_)
        assert inbox.administration.park() == 2
        make_inbox().administration.resume(by="me", type_=PAID)
        assert inbox.administration.park() == 1
        assert inbox.administration.park() == 0
        claim = due(inbox)
        assert claim is not None
        assert claim.type == PAID
        assert make_inbox().administration.park() == 0

    def test_retry_of_a_parked_event_waits(self, inbox: Inbox) -> None:
        """A person's retry does not end the pause."""
        enqueue(inbox, 1)
        inbox.administration.pause(by="me", why=None, type_=CREATED)
        assert inbox.administration.park() == 1
        assert inbox.administration.reopen("evt_1", by="me") is True
        assert due(inbox) is None
        assert inbox.administration.park() == 1

    def test_unclaimed_events_hide_no_paused_one(
        self, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Paused events are parked behind due events that no worker claims, step by step."""
        monkeypatch.setattr(pauses_module, "SEARCHED", 3)
        administration = inbox.administration
        for number in range(7):
            # The clock of SQLite is coarse: events with one ``due_at`` are in the order of the ids.
            live = replace(EVENT, id=f"evt_0_live_{number}", type=PAID, livemode=True)
            inbox.deliveries.enqueue(live)
        enqueue(inbox, 1, 2, 3)
        administration.pause(by="me", why=None, type_=CREATED)
        assert [administration.park() for _ in range(4)] == [0, 0, 3, 0]
        # An event behind the place of the search is found when it begins again.
        assert administration.reopen("evt_2", by="me") is True
        assert sum(administration.park() for _ in range(4)) == 1

    def test_parked_events_are_read_once(
        self, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Resumed events are found among more parked events than one search reads."""
        monkeypatch.setattr(pauses_module, "SEARCHED", 3)
        administration = inbox.administration
        enqueue(inbox, *range(7))
        enqueue(inbox, 7, 8, 9, type_=PAID)
        for type_ in (CREATED, PAID):
            administration.pause(by="me", why=None, type_=type_)
        assert administration.park() == 10
        administration.resume(by="me", type_=PAID)
        assert administration.park() == 3
        assert [due(inbox) is not None for _ in range(4)] == [True, True, True, False]

    def test_paused_event_does_not_block_its_key(self, inbox: Inbox) -> None:
        """A later event of the same concurrency key and another type is claimed."""
        for number, type_ in enumerate((CREATED, PAID)):
            event = replace(EVENT, id=f"evt_{number}", type=type_, concurrency_key="cus_1")
            inbox.deliveries.enqueue(event)
        inbox.administration.pause(by="me", why=None, type_=CREATED)
        claim = due(inbox)
        assert claim is not None
        assert claim.event_id == "evt_1"
        inbox.administration.resume(by="me", type_=CREATED)
        assert due(inbox) is None
        inbox.claims.finish(claim)
        assert due(inbox) is not None

    @pytest.mark.parametrize("statistics", ["none", "of the empty table", "current"])
    def test_claim_reads_due_events_in_order(self, postgresql_url: str, statistics: str) -> None:
        """On PostgreSQL a claim reads the first due event, and the earlier events of its key.

        Without statistics it sorts the due events, and compares each with those of its key alone.
        """
        inbox = Inbox(postgresql_url, lease_seconds=600)
        inbox.migrate()
        raw_sql.execute(postgresql_url, "ALTER TABLE events SET (autovacuum_enabled = off)")
        if statistics == "of the empty table":
            raw_sql.execute(postgresql_url, "ANALYZE events")
        enqueue(inbox, 0)
        columns = "type, livemode, body, state, attempt, deliveries, received_at, due_at"
        raw_sql.execute(
            postgresql_url,
            f"INSERT INTO events (id, subject, {columns})"  # noqa: S608 - the test's own words
            f" SELECT 'evt_' || n, 'key ' || n % 500, {columns}"
            " FROM events, generate_series(1, 5000) n",
        )
        if statistics == "current":
            raw_sql.execute(postgresql_url, "ANALYZE events")
        inbox.close()
        text = plan(postgresql_url, claims.CLAIM_DUE)
        assert "Index Scan using events_waiting on events other" in text
        if statistics == "current":
            assert "Index Scan using events_due on events candidate" in text
            assert "Sort" not in text

    def test_locked_event_is_parked_later(self, postgresql_url: str) -> None:
        """On PostgreSQL no claim waits for the parking, and the reverse."""
        inbox = Inbox(postgresql_url, lease_seconds=600)
        enqueue(inbox, 1)
        inbox.administration.pause(by="me", why=None, type_=CREATED)
        with raw_sql.locking(postgresql_url, "evt_1"):
            assert inbox.administration.park() == 0
        assert inbox.administration.park() == 1
        inbox.close()


#: The condition of the clock repair of the release before. It runs at each start.
REPAIRED_BEFORE = """
    state = 'pending' AND due_at > {now} AND
    (outcome IS NULL OR outcome NOT IN ('failed', 'released') OR settled_at > {now})
"""
NOW = {
    "sqlite": "((julianday('now') - 2440587.5) * 86400.0)",
    "postgresql": "EXTRACT(EPOCH FROM statement_timestamp())::double precision",
}


class TestOutcomeOfAParkedEvent:
    """A parked event has a stored outcome of its own. It is shown nowhere."""

    @pytest.fixture
    def parked(self, inbox: Inbox) -> Inbox:
        """An inbox with a parked event per outcome, the second one of a failure."""
        enqueue(inbox, 1, 2, 3, 4)
        new, failed, released, fallback = (due(inbox) for _ in range(4))
        assert new
        assert failed
        assert released
        assert fallback
        inbox.claims.release(new, -1.0)
        inbox.claims.fail(failed, replace(FAILURE, delay=-1.0, fingerprint="group"))
        inbox.claims.release(released, -1.0)
        inbox.claims.finish(fallback, Outcome.FALLBACK)
        assert inbox.administration.reopen("evt_4", by="me") is True
        enqueue(inbox, 5)
        inbox.administration.pause(by="me", why=None, type_=CREATED)
        assert inbox.administration.park() == 5
        return inbox

    def outcomes(self, inbox: Inbox) -> list[str | None]:
        """Return the outcomes of the events that ``parked`` makes."""
        return [outcome for _, (_, outcome) in sorted(states(inbox).items())]

    SHOWN = ("released", "failed", "released", "fallback", None)

    def test_release_before_makes_it_due(self, database_url: str, parked: Inbox) -> None:
        """After a way back, its first start makes every parked event due."""
        now = NOW[database_url.partition("+")[0].partition(":")[0]]
        where = REPAIRED_BEFORE.format(now=now)
        raw_sql.execute(database_url, f"UPDATE events SET due_at = {now} WHERE {where}")  # noqa: S608 - the test's own words
        later = raw_sql.select(
            database_url,
            f"(SELECT id FROM events WHERE due_at > {now}) AS later",  # noqa: S608 - the test's own words
        )
        assert later == []
        # This version can follow again.
        assert self.outcomes(parked) == [*self.SHOWN]
        parked.administration.resume(by="me", type_=CREATED)
        assert sum(due(parked) is not None for _ in range(6)) == 5

    def test_former_outcome_is_shown(self, parked: Inbox) -> None:
        """The page, a filter, an export and a list have the outcome from before, and so after."""
        administration = parked.administration
        assert self.outcomes(parked) == [*self.SHOWN]
        for outcome, number in (("failed", 1), ("released", 2), ("paused_failed", 0)):
            rows = administration.page(EventFilter(outcome=outcome), limit=9).events
            assert [each.outcome for each in rows] == [outcome] * number
        (record,) = parked.transfer.read(["evt_2"])
        assert (record["outcome"], record["due_at"][:2]) == ("failed", "20")
        administration.resume(by="me", type_=CREATED)
        assert administration.park() == 5
        assert self.outcomes(parked) == [*self.SHOWN]

    def test_history_has_the_former_outcome(self, parked: Inbox) -> None:
        """A person's run, a retry of many and giving up keep the attempt with its outcome."""
        claim = parked.claims.claim_one("evt_2", by="me")
        assert claim is not None
        assert parked.claims.finish(claim)
        assert parked.administration.give_up("evt_3", by="me", why="obsolete") is True
        matching = EventFilter(outcome="released")
        assert parked.administration.retry_many(matching, by="me", why=None, limit=9) == 1
        history = {
            number: [each.outcome for each in parked.administration.attempts(f"evt_{number}")]
            for number in (1, 2, 3)
        }
        assert history == {1: ["released"], 2: ["failed", "handled"], 3: ["released", "gave_up"]}
        assert parked.administration.park() == 1

    def test_late_result_is_recorded(self, inbox: Inbox) -> None:
        """A callback that outlives a stop can record its result though the event is parked."""
        enqueue(inbox, 1)
        claim = due(inbox)
        assert claim is not None
        inbox.claims.release(claim, -1.0)
        inbox.administration.pause(by="me", why=None, type_=CREATED)
        assert inbox.administration.park() == 1
        late = replace(FAILURE, fingerprint="group", exception="KeyError", place="x.py:1")
        assert inbox.claims.fail(claim, late) is True
        group = inbox.groups.find("group")
        assert group is not None
        assert group.attempts == 1


def test_audit_log_has_pages(inbox: Inbox) -> None:
    """The latest entries come first. A page continues before an entry, or is about one target."""
    ids = [inbox.audit.record("me", "prune", f"evt_{number}") for number in range(3)]
    inbox.audit.record("me", "restore", "evt_1", "moved", affected=7)
    latest = inbox.administration.audit(2)
    assert [(each.action, each.affected) for each in latest] == [("restore", 7), ("prune", None)]
    before = inbox.administration.audit(9, before_id=latest[-1].id)
    assert [each.id for each in before] == ids[1::-1]
    about = inbox.administration.audit(9, target="evt_1")
    assert [(each.action, each.why) for each in about] == [("restore", "moved"), ("prune", None)]


def test_pauses_are_in_the_audit_log(inbox: Inbox) -> None:
    """A pause that changed nothing has affected nothing."""
    for _ in range(2):
        inbox.administration.pause(by="me", why="deploy")
    for _ in range(2):
        inbox.administration.resume(by="me", why="done", type_=CREATED)
    assert log(inbox) == [
        *(("pause", None, "deploy", None), ("pause", None, "deploy", 0)),
        *(("resume", CREATED, "done", 0), ("resume", CREATED, "done", 0)),
    ]


def test_counts_add_up() -> None:
    """The sum of two numbers is bounded if one of them is."""
    assert Count(1) + Count(2) == Count(3)
    assert Count(1) + Count(2, is_bounded=True) == Count(3, is_bounded=True)


def test_released_event_waits_for_the_end_of_its_process(inbox: Inbox) -> None:
    """Its callback may still run for a moment, so no action of a person makes it due earlier.

    A success of that callback still counts.
    """
    enqueue(inbox, 1)
    claim = due(inbox)
    assert claim is not None
    inbox.claims.release(claim, HOUR)

    assert inbox.administration.reopen("evt_1", by="me") is True
    assert inbox.administration.retry_many(EventFilter(), by="me", why=None, limit=10) == 1
    assert due(inbox) is None
    assert inbox.administration.give_up("evt_1", by="me", why="no") is False
    assert inbox.claims.finish(claim) is True
    assert states(inbox) == {"evt_1": ("done", "handled")}
