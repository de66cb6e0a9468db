"""Lanes: limits of types over all processes, low priority, and the search of misplaced events."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from app.inbox import Claim, Failure, Inbox, NewEvent, Outcome, lanes, pauses, steps
from app.inbox.claim_rules import ClaimRules
from app.inbox.engine import postgresql
from app.inbox.sql.lanes import claims_with
from tests.support import raw_sql
from tests.support.inboxes import MakeInbox
from tests.support.waiting import wait_for

LIMITED, BULK, OTHER = "v1.invoice.paid", "v1.customer.updated", "v1.customer.created"
RULES = ClaimRules(low=frozenset({BULK}), limits=frozenset({(LIMITED, 2)}))
EVENT = NewEvent("evt_1", OTHER, livemode=False, context=None, body=b"{}")


@pytest.fixture
def make_inbox(make_inbox: MakeInbox) -> MakeInbox:
    """A function that opens the test's database, in a process with these rules."""

    def make(rules: ClaimRules = RULES, **options: float) -> Inbox:
        return make_inbox(rules=lambda: rules, **options)

    return make


def enqueue(inbox: Inbox, event_type: str, *numbers: int) -> None:
    """Record events of this type, in the order of their numbers."""
    for number in numbers:
        inbox.deliveries.enqueue(replace(EVENT, id=f"{event_type} {number}", type=event_type))


def claim(inbox: Inbox) -> Claim | None:
    """Claim a due event, as a worker with a test key."""
    return inbox.claims.claim_due(livemode=False)


def _crashes(inbox: Inbox, claim: Claim) -> int:
    """Return how many processes the event has ended in a row."""
    event = inbox.administration.find(claim.event_id)
    assert event is not None
    return event.crashes


def claimed(inbox: Inbox, count: int) -> list[str]:
    """Claim ``count`` events, and return their ids. They go on running."""
    claims = [claim(inbox) for _ in range(count)]
    return [each.event_id if each else "" for each in claims]


class TestPriority:
    """A burst of a type with low priority does not hold up another."""

    def test_event_of_low_priority_waits_for_the_others(self, make_inbox: MakeInbox) -> None:
        """Of two due events the one of normal priority runs first, though it came later."""
        inbox = make_inbox()
        enqueue(inbox, BULK, 1, 2)
        enqueue(inbox, OTHER, 1, 2)

        assert claimed(inbox, 5) == [f"{OTHER} 1", f"{OTHER} 2", f"{BULK} 1", f"{BULK} 2", ""]

    def test_one_claim_in_ten_takes_an_event_of_low_priority_first(
        self, make_inbox: MakeInbox
    ) -> None:
        """So it runs in the end, though others are always due."""
        inbox = make_inbox()
        enqueue(inbox, BULK, 1, 2, 3)
        enqueue(inbox, OTHER, *range(30))

        types = [each.rpartition(" ")[0] for each in claimed(inbox, 20)]

        assert [number for number, each in enumerate(types) if each == BULK] == [9, 19]

    def test_type_with_both_policies_waits_and_has_its_limit(self, make_inbox: MakeInbox) -> None:
        """Low priority holds for a type with a limit too."""
        rules = ClaimRules(low=frozenset({LIMITED}), limits=frozenset({(LIMITED, 1)}))
        inbox = make_inbox(rules)
        enqueue(inbox, LIMITED, 1, 2)
        enqueue(inbox, OTHER, 1)

        assert claimed(inbox, 3) == [f"{OTHER} 1", f"{LIMITED} 1", ""]

    def test_events_of_one_object_never_run_at_once(self, make_inbox: MakeInbox) -> None:
        """The concurrency key holds between lanes. The one of low priority runs afterwards."""
        inbox = make_inbox()
        for each in (BULK, OTHER):
            event = replace(EVENT, id=each, type=each, concurrency_key="cus_1")
            inbox.deliveries.enqueue(event)

        first = claim(inbox)
        assert first is not None
        assert first.type == OTHER
        assert claim(inbox) is None
        assert inbox.claims.finish(first)
        assert claimed(inbox, 1) == [BULK]


class TestLimit:
    """At most so many events of a type run at once."""

    @pytest.mark.parametrize("end", ["finish", "fail", "release", "mark_dead"])
    def test_each_end_of_an_attempt_frees_its_slot(self, make_inbox: MakeInbox, end: str) -> None:
        """The next event runs as soon as one has ended. Other types are not held up."""
        inbox = make_inbox()
        enqueue(inbox, LIMITED, 1, 2, 3, 4)
        first = claim(inbox)
        enqueue(inbox, OTHER, 1)
        assert first is not None
        assert sorted(claimed(inbox, 3)) == ["", f"{OTHER} 1", f"{LIMITED} 2"]

        if end == "finish":
            assert inbox.claims.finish(first)
        elif end == "fail":
            assert inbox.claims.fail(first, Failure("no", delay=60.0))
        elif end == "release":
            assert inbox.claims.release(first, 60.0)
        else:
            assert inbox.claims.mark_dead(first, Outcome.GAVE_UP, Failure("no"))

        assert claimed(inbox, 2) == [f"{LIMITED} 3", ""]
        event = inbox.administration.find(f"{LIMITED} 3")
        assert event is not None
        assert event.slot == 1

    def test_limit_that_was_lowered_counts_the_running_events(self, make_inbox: MakeInbox) -> None:
        """No further event begins before fewer than the new limit run."""
        before, after = make_inbox(), make_inbox(ClaimRules(limits=frozenset({(LIMITED, 1)})))
        enqueue(before, LIMITED, 1, 2, 3)
        first, second = claim(before), claim(before)
        assert first is not None
        assert second is not None

        assert before.claims.finish(first)
        assert claim(after) is None
        assert before.claims.finish(second)
        assert claimed(after, 2) == [f"{LIMITED} 3", ""]

    def test_orphan_keeps_its_slot(self, make_inbox: MakeInbox, database_url: str) -> None:
        """A rescued event still counts once. The limit is not exceeded, nor is a slot lost."""
        inbox = make_inbox(lease_seconds=-1.0)
        enqueue(inbox, LIMITED, 1, 2, 3)
        claimed(inbox, 2)
        raw_sql.orphan(database_url)

        rescued = [inbox.claims.claim_orphan(livemode=False) for _ in range(3)]

        assert [each and (each.event_id, _crashes(inbox, each)) for each in rescued] == [
            (f"{LIMITED} 1", 1),
            (f"{LIMITED} 2", 1),
            None,
        ]
        assert claim(inbox) is None

    def test_orphan_of_a_process_without_the_limit_waits_for_a_slot(
        self, make_inbox: MakeInbox, database_url: str
    ) -> None:
        """It had no slot. An orphan of a type without a limit needs none."""
        without = make_inbox(ClaimRules(), lease_seconds=-1.0)
        inbox = make_inbox(ClaimRules(limits=frozenset({(LIMITED, 1)})))
        enqueue(without, LIMITED, 1)
        enqueue(without, OTHER, 1)
        claimed(without, 2)
        raw_sql.orphan(database_url)
        enqueue(inbox, LIMITED, 2)
        running = claim(inbox)
        assert running is not None

        rescued = [inbox.claims.claim_orphan(livemode=False) for _ in range(2)]
        assert [each and each.event_id for each in rescued] == [f"{OTHER} 1", None]
        assert inbox.claims.finish(running)
        last = inbox.claims.claim_orphan(livemode=False)
        assert last is not None
        assert last.event_id == f"{LIMITED} 1"

    def test_slot_that_an_older_replica_left_is_not_used(
        self, make_inbox: MakeInbox, database_url: str
    ) -> None:
        """It rescued an orphan and settled it. A claim without a limit does not take the slot."""
        inbox, without = make_inbox(), make_inbox(ClaimRules())
        enqueue(inbox, LIMITED, 1, 2, 4)
        for _ in range(3):
            found = claim(inbox)
            assert found is not None
            assert inbox.claims.fail(found, Failure("no", delay=-1.0))
        raw_sql.execute(database_url, "UPDATE events SET slot = 1")
        enqueue(inbox, LIMITED, 3)
        raw_sql.execute(database_url, f"UPDATE events SET due_at = 0 WHERE id = '{LIMITED} 3'")  # noqa: S608 - the test's own words
        assert claimed(inbox, 1) == [f"{LIMITED} 3"]

        assert inbox.claims.claim_one(f"{LIMITED} 1", by="jenny") is not None
        assert claimed(without, 1) == [f"{LIMITED} 2"]
        again = replace(EVENT, id=f"{LIMITED} 4", type=LIMITED)
        assert inbox.deliveries.record_and_claim(again).claim

    def test_limit_holds_for_claims_at_the_same_moment(self, make_inbox: MakeInbox) -> None:
        """Threads of two processes claim at once. Each event runs, and never three at once."""
        inboxes = [make_inbox(), make_inbox()]
        enqueue(inboxes[0], LIMITED, *range(40))
        inside, most = Counter[str](), [0]
        ended: list[str] = []
        counting = threading.Lock()

        def work(inbox: Inbox) -> None:
            while len(ended) < 40:
                found = claim(inbox)
                if found is None:
                    continue
                with counting:
                    inside[found.type] += 1
                    most.append(inside[found.type])
                time.sleep(0.002)
                with counting:
                    inside[found.type] -= 1
                assert inbox.claims.finish(found)
                ended.append(found.event_id)

        with ThreadPoolExecutor(6) as pool:
            for done in [pool.submit(work, inboxes[number % 2]) for number in range(6)]:
                done.result()

        assert max(most) == 2
        assert sorted(ended) == sorted(f"{LIMITED} {number}" for number in range(40))

    @pytest.mark.parametrize(("most", "found"), [(50, f"{LIMITED} 1"), (1, "")])
    def test_claim_that_loses_a_race_chooses_anew(
        self, postgresql_url: str, monkeypatch: pytest.MonkeyPatch, most: int, found: str
    ) -> None:
        """Two claims choose one slot: a unique index refuses the second, which takes another slot.

        One that has lost too many races finds nothing, and the worker asks again.
        """
        monkeypatch.setattr(postgresql, "MAX_RACES", most)
        with closing(Inbox(postgresql_url, lease_seconds=600, rules=lambda: RULES)) as inbox:
            enqueue(inbox, LIMITED, 1, 2)
            take = "UPDATE events SET state = 'running', slot = 1 WHERE id LIKE '% 2'"
            engine = raw_sql.make_engine(postgresql_url)
            with ThreadPoolExecutor(1) as pool, engine.connect() as other:
                other.execute(sa.text(take))
                claiming = pool.submit(claimed, inbox, 1)
                wait_for(lambda: _is_waiting(engine))
                other.commit()
                assert claiming.result() == [found]
            engine.dispose()
            if found:
                event = inbox.administration.find(found)
                assert event is not None
                assert event.slot == 2


def _is_waiting(engine: sa.Engine) -> bool:
    """Return whether a transaction waits for another one."""
    with engine.connect() as connection:
        waiting = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")
        return bool(connection.execute(waiting).scalar())


class TestPlaces:
    """No event waits for ever in a lane that no process knows."""

    def test_events_from_before_the_rules_are_found(self, make_inbox: MakeInbox) -> None:
        """A release that declares a policy holds it for the events that wait already."""
        before, after = make_inbox(ClaimRules()), make_inbox()
        enqueue(before, BULK, 1)
        enqueue(before, LIMITED, 1, 2, 3)
        enqueue(before, OTHER, 1)

        assert claimed(after, 2) == [f"{OTHER} 1", ""]
        assert after.lanes.place() == 4
        assert after.lanes.place() == 0
        assert claimed(after, 4) == [f"{LIMITED} 1", f"{LIMITED} 2", f"{BULK} 1", ""]

    def test_events_of_rules_that_were_removed_are_returned(
        self, make_inbox: MakeInbox, database_url: str
    ) -> None:
        """After a minute: the replicas of a deployment must not move events back and forth."""
        before = make_inbox()
        after = make_inbox(ClaimRules(limits=frozenset({(OTHER, 1)})))
        enqueue(before, BULK, 1)
        enqueue(before, LIMITED, 1)

        assert after.lanes.place() == 0
        assert claim(after) is None
        raw_sql.execute(database_url, "UPDATE events SET due_at = due_at - 61")
        assert after.lanes.place() == 2
        assert sorted(claimed(after, 3)) == ["", f"{BULK} 1", f"{LIMITED} 1"]

    def test_process_without_rules_takes_events_of_all_lanes(self, make_inbox: MakeInbox) -> None:
        """So does a replica of the release before. It moves nothing."""
        before, after = make_inbox(), make_inbox(ClaimRules())
        enqueue(before, BULK, 1)
        enqueue(before, LIMITED, 1)

        assert after.lanes.place() == 0
        assert sorted(claimed(after, 2)) == [f"{BULK} 1", f"{LIMITED} 1"]

    def test_one_call_moves_all_of_them(
        self, make_inbox: MakeInbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It works in steps, of two events here."""
        monkeypatch.setattr(lanes, "STEP", 2)
        before, after = make_inbox(ClaimRules()), make_inbox()
        enqueue(before, BULK, *range(5))

        assert after.lanes.place() == 5

    def test_locked_events_are_left_to_the_process_that_holds_them(
        self, make_inbox: MakeInbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A search that can move nothing ends. The next one finds the events again."""
        before, after = make_inbox(ClaimRules()), make_inbox()
        enqueue(before, BULK, 1)
        # No mock: another process has locked or moved the events since they were read.
        with monkeypatch.context() as patch:
            patch.setattr(lanes, "numbered_ids", lambda _ids, count: steps.numbered_ids([], count))
            assert after.lanes.place() == 0

        assert after.lanes.place() == 1


def test_events_of_the_other_mode_are_not_claimed(make_inbox: MakeInbox) -> None:
    """Each lane has events of both modes, and a worker has the key of one."""
    inbox = make_inbox()
    for each in (BULK, LIMITED, OTHER):
        inbox.deliveries.enqueue(replace(EVENT, id=each, type=each, livemode=True))

    assert claim(inbox) is None
    assert {inbox.claims.claim_due(livemode=True) is not None for _ in range(3)} == {True}


class TestPauses:
    """A pause of a type holds in every lane."""

    def test_paused_types_are_not_claimed(self, make_inbox: MakeInbox) -> None:
        """Before its events are parked, and afterwards."""
        inbox = make_inbox()
        for each in (BULK, LIMITED, OTHER):
            inbox.administration.pause(by="jenny", why=None, type_=each)
            enqueue(inbox, each, 1)

        assert claim(inbox) is None
        assert inbox.administration.park() == 3
        assert claim(inbox) is None
        for each in (BULK, LIMITED, OTHER):
            inbox.administration.resume(by="jenny", type_=each)
        assert inbox.administration.park() == 3
        assert len(set(claimed(inbox, 3))) == 3

    def test_all_lanes_are_paused_at_once(self, make_inbox: MakeInbox) -> None:
        """``flask events pause`` without a type holds for types with a policy too."""
        inbox = make_inbox()
        inbox.administration.pause(by="jenny", why=None)
        for each in (BULK, LIMITED, OTHER):
            enqueue(inbox, each, 1)

        assert claim(inbox) is None

    def test_backlog_of_one_lane_hides_no_paused_event_of_another(
        self, make_inbox: MakeInbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The search for paused events is bounded, and goes on behind the events of other lanes."""
        monkeypatch.setattr(pauses, "SEARCHED", 2)
        inbox = make_inbox()
        enqueue(inbox, BULK, *range(5))
        inbox.administration.pause(by="jenny", why=None, type_=OTHER)
        enqueue(inbox, OTHER, 1)

        assert sum(inbox.administration.park() for _ in range(4)) == 1


#: How many rows a claim may read. One of a lane and those that it decides by.
MAX_ROWS = 60


def test_claim_does_not_walk_over_the_events_that_may_not_run(
    make_inbox: MakeInbox, database_url: str
) -> None:
    """With 20,000 due events of limited and of low types before it, it reads some rows only."""
    inbox = make_inbox()
    inbox.migrate()
    for event_type, lane in ((LIMITED, LIMITED), (BULK, "low")):
        raw_sql.execute(database_url, _MANY, {"type": event_type, "lane": lane})
    enqueue(inbox, OTHER, *range(3))

    assert claimed(inbox, 4)[2:] == [f"{OTHER} 0", f"{OTHER} 1"]
    assert _rows_read(database_url) < MAX_ROWS


#: Adds events that have been due for long, with the numbers from 1 to ``count``.
_MANY = """
    INSERT INTO events (id, type, livemode, body, state, attempt, deliveries, received_at, due_at,
        subject, spent, crashes, source, lane)
    WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 10000)
    SELECT CAST(:type AS TEXT) || n, CAST(:type AS TEXT), false, '{}', 'pending', 0, 1, n, n,
        CAST(:type AS TEXT) || n, 0, 0, 'delivery', CAST(:lane AS TEXT)
    FROM numbers
"""


def _rows_read(url: str) -> float:
    """Return how many rows a claim reads on PostgreSQL, or the thousands of steps on SQLite."""
    engine = raw_sql.make_engine(url)
    statement: Any = claims_with(RULES).due
    given = {"token": "t", "lease_seconds": 60.0, "livemode": False, "low_rank": 1}
    with engine.connect() as connection:
        if url.startswith("sqlite"):
            steps = [0]
            driver: Any = connection.connection.driver_connection
            driver.set_progress_handler(lambda: steps.__setitem__(0, steps[0] + 1), 1000)
            compiled = statement.compile(dialect=engine.dialect)
            values = tuple(given[name] for name in compiled.positiontup)
            connection.exec_driver_sql(str(compiled), values).all()
            driver.set_progress_handler(None, 1000)
            read = float(steps[0])
        else:
            connection.execute(sa.text("SET enable_sort = off"))
            connection.execute(sa.text("SET enable_bitmapscan = off"))
            connection.execute(sa.text("SET enable_seqscan = off"))
            compiled = statement.compile(dialect=engine.dialect)
            sql = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {compiled}"
            ((plan,),) = connection.exec_driver_sql(sql, given).all()
            read = (
                float(plan[0]["Plan"]["Shared Hit Blocks"] + plan[0]["Plan"]["Shared Read Blocks"])
                / 10
            )
        connection.rollback()
    engine.dispose()
    return read
