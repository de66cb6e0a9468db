"""Pairs: of a snapshot event and the thin event of the same action, one callback succeeds."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from app import GiveUp
from app.errors import InboxUnavailable
from app.inbox import Claim, Failure, Inbox, NewEvent
from app.inbox.claims import Claims
from app.inbox.pairs import Hold, Pairs
from app.inbox.records import read_record
from app.processing.pairs import delay_of, paired_types
from devkit import samples
from devkit.deliver import Deliver, Delivery, MakeDeliver
from devkit.stripe_api import StripeApi
from tests.support import raw_sql
from tests.support.waiting import wait_for

SNAPSHOT = "customer.created"
THIN = "v1.customer.created"

#: Notes its event. ``before`` can fail, or deliver another event.
NOTING = """
    import app

    runs, keys, mails = [], [], []
    before = None

    def handle({name}, client):
        runs.append({name}.id)
        keys.append(app.idempotency_key({name}, "greet"))
        with app.once({name}, "mail") as first:
            if first:
                mails.append({name}.id)
        if before:
            before()
"""
PAIR = {
    "customer_created": NOTING.format(name="event"),
    "v1_customer_created": NOTING.format(name="notif"),
}


class Pair:
    """A snapshot event and the thin event of the same action, and the callbacks of both."""

    def __init__(self, deliver: Deliver, api: StripeApi, *, names: str | None = "evt_s") -> None:
        """Serve the thin event, which names the snapshot event ``names``."""
        self.deliver = deliver
        self.bodies = {
            SNAPSHOT: samples.snapshot_event(SNAPSHOT, event_id="evt_s"),
            THIN: samples.notification(THIN, event_id="evt_n"),
        }
        api.put_event(samples.event(self.bodies[THIN], snapshot_event=names))

    def send(self, event_type: str) -> Delivery:
        """Deliver one of the two events."""
        return self.deliver(self.bodies[event_type])

    def module(self, event_type: str) -> Any:
        """Return a handler module."""
        return self.deliver.receiver.module(event_type.replace(".", "_"))

    def runs(self) -> list[str]:
        """Return the events of all runs, those of snapshot events first."""
        return [*self.module(SNAPSHOT).runs, *self.module(THIN).runs]

    def stored(self) -> list[tuple[str, str | None]]:
        """Return the state and the outcome of the snapshot event, and those of the thin one."""
        found = [self.deliver.receiver.event(each) for each in ("evt_s", "evt_n")]
        return [(each.state, each.outcome) for each in found]

    def stored_thin(self) -> tuple[str, str | None]:
        """Return the state and the outcome of the thin event."""
        found = self.deliver.receiver.event("evt_n")
        return found.state, found.outcome


@pytest.fixture
def pair(make_deliver: MakeDeliver, stripe_api: StripeApi, database_url: str) -> Pair:
    """A pair in inline mode."""
    return Pair(make_deliver(modules=PAIR, database_url=database_url), stripe_api)


def fail() -> None:
    """Raise, as a callback does."""
    raise LookupError


ORDERS = pytest.mark.parametrize(("first", "second"), [(SNAPSHOT, THIN), (THIN, SNAPSHOT)])


@ORDERS
class TestInline:
    """Each rule holds whichever event comes first."""

    def test_one_runs(self, pair: Pair, first: str, second: str) -> None:
        """The other one is done as ``twin``, and Stripe is answered 200."""
        found = [pair.send(each).outcome for each in (first, second, first, second)]
        assert found == ["handled", "twin", "duplicate", "duplicate"]
        assert len(pair.runs()) == 1
        assert pair.send(second).status == 200

    def test_failed_one_does_not_block(self, pair: Pair, first: str, second: str) -> None:
        """The other one runs, and the failed one is its twin at its next delivery."""
        pair.module(first).before = fail
        assert pair.send(first).outcome == "failed"
        assert pair.send(second).outcome == "handled"
        assert pair.send(first).outcome == "twin"
        assert len(pair.runs()) == 2

    def test_running_one_defers(self, pair: Pair, first: str, second: str) -> None:
        """The other one waits without a failure, and is the twin after the success."""
        other: list[Delivery] = []
        pair.module(first).before = lambda: other.append(pair.send(second))
        assert pair.send(first).outcome == "handled"
        (deferred,) = other
        assert (deferred.status, deferred.outcome) == (409, "deferred")
        assert deferred.event is not None
        assert (deferred.event.state, deferred.event.outcome) == ("pending", "released")
        assert deferred.event.attempts_used == 0
        assert pair.send(second).outcome == "twin"
        assert len(pair.runs()) == 1

    def test_dead_one_does_not_block(self, pair: Pair, first: str, second: str) -> None:
        """The callback gave up. The other one runs, and a retry of the dead one finds that."""

        def give_up() -> None:
            raise GiveUp("no")

        pair.module(first).before = give_up
        assert pair.send(first).outcome == "gave_up"
        pair.module(first).before = None
        assert pair.send(second).outcome == "handled"
        receiver = pair.deliver.receiver
        result = receiver.app.test_cli_runner().invoke(
            args=["events", "retry", str(pair.bodies[first]["id"]), "--yes"]
        )
        assert "twin" in result.output
        assert ("done", "twin") in pair.stored()

    def test_success_before_counts(self, pair: Pair, first: str, second: str) -> None:
        """A person had the first one run again, and it failed. It is retried, and not the other."""
        assert pair.send(first).outcome == "handled"
        pair.module(first).before = fail
        again = ["events", "retry", str(pair.bodies[first]["id"]), "--again", "--yes"]
        assert pair.deliver.receiver.app.test_cli_runner().invoke(args=again).exit_code == 1
        assert pair.send(second).outcome == "twin"
        pair.module(first).before = None
        assert pair.send(first).outcome == "handled"

    def test_orphan_records_no_success(
        self, pair: Pair, database_url: str, first: str, second: str
    ) -> None:
        """Its process lives, but lost its connection for too long. The other event ran then."""
        others: list[Delivery] = []

        def lose_connection() -> None:
            raw_sql.execute(
                database_url,
                "UPDATE events SET suspected_lease = lease_until, suspected_seconds = 10000"  # noqa: S608 - the test's own
                f" WHERE id = '{pair.bodies[first]['id']}'",
            )
            others.append(pair.send(second))

        pair.module(first).before = lose_connection
        late = pair.send(first)
        assert (late.status, late.outcome) == (409, "deferred")
        assert others[0].outcome == "handled"
        assert pair.send(first).outcome == "twin"

    def test_both_share_keys_and_effects(self, pair: Pair, first: str, second: str) -> None:
        """What the first one did before it failed is not repeated by the other one."""
        pair.module(first).before = fail
        pair.send(first)
        pair.send(second)
        keys = [*pair.module(first).keys, *pair.module(second).keys]
        assert keys == ["evt_s:greet"] * 2
        assert len(pair.module(first).mails) == 1
        assert pair.module(second).mails == []


class TestKey:
    """The key of a pair is the id of the snapshot event."""

    def test_event_is_fetched_once(self, make_deliver: MakeDeliver, stripe_api: StripeApi) -> None:
        """The callback's own fetch is answered from the cache."""
        source = "def handle(notif, client):\n        notif.fetch_event()\n"
        modules = {**PAIR, "v1_customer_created": source}
        pair = Pair(make_deliver(modules=modules), stripe_api)
        assert pair.send(THIN).outcome == "handled"
        assert len(stripe_api.asked) == 1

    def test_failed_fetch_is_a_failed_attempt(self, pair: Pair, stripe_api: StripeApi) -> None:
        """Stripe is to deliver the event again."""
        stripe_api.fail(status=429)
        assert pair.send(THIN).outcome == "failed"
        assert pair.send(THIN).outcome == "handled"

    def test_retry_needs_no_fetch(self, pair: Pair, stripe_api: StripeApi) -> None:
        """An attempt before has found the snapshot event."""
        pair.module(THIN).before = fail
        assert pair.send(THIN).outcome == "failed"
        assert pair.send(SNAPSHOT).outcome == "handled"
        stripe_api.fail(status=429)
        assert pair.send(THIN).outcome == "twin"
        assert len(stripe_api.asked) == 1

    def test_event_without_snapshot_event(
        self, make_deliver: MakeDeliver, stripe_api: StripeApi
    ) -> None:
        """It runs without a pair."""
        pair = Pair(make_deliver(modules=PAIR), stripe_api, names=None)
        assert [pair.send(THIN).outcome, pair.send(SNAPSHOT).outcome] == ["handled"] * 2

    def test_type_with_one_module_is_no_pair(
        self, make_deliver: MakeDeliver, stripe_api: StripeApi
    ) -> None:
        """Its events are not fetched."""
        modules = {"v1_customer_created": PAIR["v1_customer_created"]}
        pair = Pair(make_deliver(modules=modules), stripe_api)
        assert pair.send(THIN).outcome == "handled"
        assert stripe_api.asked == []

    def test_paired_types(self) -> None:
        """A type is paired if both spellings have a module."""
        handled = {SNAPSHOT, THIN, "charge.failed", "v1.charge.captured"}
        assert paired_types(handled) == {SNAPSHOT, THIN}

    def test_event_that_ran_before_there_was_a_pair(
        self, make_deliver: MakeDeliver, stripe_api: StripeApi, database_url: str
    ) -> None:
        """Its success counts, although no hold was recorded."""
        modules = {"customer_created": PAIR["customer_created"]}
        before = make_deliver(modules=modules, database_url=database_url)
        assert Pair(before, stripe_api).send(SNAPSHOT).outcome == "handled"
        pair = Pair(make_deliver(modules=PAIR, database_url=database_url), stripe_api)
        assert pair.send(THIN).outcome == "twin"


class TestEndOfPair:
    """An event of a former pair is retried after one of the modules was removed."""

    @pytest.mark.parametrize("event_type", [SNAPSHOT, THIN])
    def test_success_counts(
        self,
        pair: Pair,
        make_deliver: MakeDeliver,
        stripe_api: StripeApi,
        database_url: str,
        event_type: str,
    ) -> None:
        """The other event was handled, so this one is its twin."""
        (other,) = {SNAPSHOT, THIN} - {event_type}
        pair.module(event_type).before = fail
        assert pair.send(event_type).outcome == "failed"
        assert pair.send(other).outcome == "handled"
        name = event_type.replace(".", "_")
        receiver = make_deliver(modules={name: PAIR[name]}, database_url=database_url)
        assert Pair(receiver, stripe_api).send(event_type).outcome == "twin"

    def test_key_stays(
        self, pair: Pair, make_deliver: MakeDeliver, stripe_api: StripeApi, database_url: str
    ) -> None:
        """A request of the attempt before is not repeated at Stripe."""
        pair.module(THIN).before = fail
        assert pair.send(THIN).outcome == "failed"
        keys = pair.module(THIN).keys
        modules = {"v1_customer_created": PAIR["v1_customer_created"]}
        after = Pair(make_deliver(modules=modules, database_url=database_url), stripe_api)
        assert after.send(THIN).outcome == "handled"
        assert [*keys, *after.module(THIN).keys] == ["evt_s:greet"] * 2

    def test_newest_event_of_an_object_runs(
        self, make_deliver: MakeDeliver, stripe_api: StripeApi, database_url: str
    ) -> None:
        """It serves those that it superseded."""
        pair = Pair(make_deliver(modules=PAIR, database_url=database_url), stripe_api)
        pair.module(THIN).before = fail
        assert pair.send(THIN).outcome == "failed"
        assert pair.send(SNAPSHOT).outcome == "handled"
        thin = f"{PAIR['v1_customer_created']}\n    COALESCE = True\n"
        modules = {"v1_customer_created": thin}
        after = Pair(make_deliver(modules=modules, database_url=database_url), stripe_api)
        assert after.send(THIN).outcome == "handled"
        assert after.module(THIN).keys == ["evt_s:greet"]


class TestQueue:
    """Workers run one of both."""

    def test_one_runs(
        self, make_deliver: MakeDeliver, stripe_api: StripeApi, database_url: str
    ) -> None:
        """An event whose twin runs is tried again soon, without a failure."""
        deliver = make_deliver(modules=PAIR, database_url=database_url, processing="queue")
        pair = Pair(deliver, stripe_api)
        # Another object, so that both can be claimed at once.
        pair.bodies[THIN]["related_object"]["id"] = "cus_other"
        pair.module(SNAPSHOT).before = lambda: wait_for(
            lambda: pair.stored()[1] == ("pending", "released")
        )
        pair.send(SNAPSHOT)
        pair.send(THIN)
        deliver.receiver.services.worker.start(2)
        wait_for(lambda: [each[0] for each in pair.stored()] == ["done", "done"])
        assert sorted(str(each[1]) for each in pair.stored()) == ["handled", "twin"]
        assert len(pair.runs()) == 1

    def test_no_event_is_superseded(
        self, make_deliver: MakeDeliver, stripe_api: StripeApi, database_url: str
    ) -> None:
        """``COALESCE`` has no effect: the newest event can be a twin, and would serve no other."""
        thin = f"{PAIR['v1_customer_created']}\n    COALESCE = True\n"
        deliver = make_deliver(
            modules={**PAIR, "v1_customer_created": thin},
            database_url=database_url,
            processing="queue",
        )
        pair = Pair(deliver, stripe_api)
        pair.send(SNAPSHOT)
        worker = deliver.receiver.services.worker
        object_id = pair.bodies[THIN]["related_object"]["id"]
        deliver(THIN, event_id="evt_later", object_id=object_id)  # of a later action
        pair.send(THIN)
        worker.start(1)
        wait_for(lambda: pair.stored()[1][0] == "done")
        wait_for(lambda: deliver.receiver.event("evt_later").state == "done")
        assert sorted(str(each[1]) for each in pair.stored()) == ["handled", "twin"]
        assert deliver.receiver.event("evt_later").outcome == "handled"


class UnreachablePairs(Pairs):
    """The real pairs. The inbox cannot be reached while ``away`` is set.

    A subclass, because a test cannot choose the statement at which a real database becomes
    unreachable.
    """

    away = threading.Event()

    def _reach(self) -> None:
        if self.away.is_set():
            raise InboxUnavailable("away", reason="away")

    def note(self, event_id: str, snapshot_event: str) -> None:
        """Raise while ``away`` is set."""
        self._reach()
        super().note(event_id, snapshot_event)

    def hold(self, claim: Claim, pair_key: str) -> Hold:
        """Raise while ``away`` is set."""
        self._reach()
        return super().hold(claim, pair_key)


class UnreachableClaims(Claims):
    """The real claims. The outage of the pairs affects a release, too."""

    def release(self, claim: Claim, delay: float, reason: str = "") -> bool:
        """Raise while the pairs are away."""
        if UnreachablePairs.away.is_set():
            raise InboxUnavailable("away", reason="away")
        return super().release(claim, delay, reason)


class Unreachable(Inbox):
    """An inbox with these pairs and claims."""

    def __init__(self, url: str, **settings: Any) -> None:
        """Take the arguments of an inbox."""
        super().__init__(url, **settings)
        self.pairs = UnreachablePairs(self._store)
        self.claims = UnreachableClaims(self._store)


class TestOutage:
    """The inbox is away before the callback, and cannot say whether it may run."""

    @pytest.fixture
    def make_pair(
        self,
        make_deliver: MakeDeliver,
        stripe_api: StripeApi,
        database_url: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> Iterator[Callable[..., Pair]]:
        """A function that makes a pair in a process whose inbox is away."""
        monkeypatch.setattr("app.factory.Inbox", Unreachable)

        def make(thin: str = PAIR["v1_customer_created"], **more: Any) -> Pair:
            modules = {**PAIR, "v1_customer_created": thin}
            deliver = make_deliver(modules=modules, database_url=database_url, **more)
            UnreachablePairs.away.set()
            return Pair(deliver, stripe_api)

        yield make
        UnreachablePairs.away.clear()

    def outcomes(self, pair: Pair) -> list[tuple[str | None, float]]:
        """Return the outcomes of the attempts of the thin event, and the attempts used up."""
        inbox = pair.deliver.receiver.services.inbox
        used = pair.deliver.receiver.event("evt_n").attempts_used
        return [(each.outcome, used) for each in inbox.administration.attempts("evt_n")]

    @pytest.mark.parametrize("is_shadow", [False, True])
    def test_stripe_delivers_again(
        self, make_pair: Callable[..., Pair], *, is_shadow: bool
    ) -> None:
        """Stripe is answered 503, and the next delivery runs the event. A shadow, too."""
        policy = "\n    SHADOW = True\n" if is_shadow else ""
        pair = make_pair(PAIR["v1_customer_created"] + policy, lease_seconds=1)
        assert pair.send(THIN).status == 503
        assert pair.runs() == []

        UnreachablePairs.away.clear()
        wait_for(lambda: pair.stored_thin() == ("pending", "released"))
        outcome = "shadow" if is_shadow else "handled"
        assert pair.send(THIN).outcome == outcome
        assert self.outcomes(pair) == [("released", 0), (outcome, 0)]

    def test_short_outage(
        self, make_pair: Callable[..., Pair], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """If the inbox answers again at once, the event is pending when Stripe is answered."""
        release = UnreachableClaims.release

        def release_after_it(claims: UnreachableClaims, *given: Any) -> bool:
            UnreachablePairs.away.clear()
            return release(claims, *given)

        monkeypatch.setattr(UnreachableClaims, "release", release_after_it)
        pair = make_pair(lease_seconds=600)
        assert pair.send(THIN).status == 503
        assert pair.stored_thin() == ("pending", "released")
        assert pair.send(THIN).outcome == "handled"
        assert self.outcomes(pair) == [("released", 0), ("handled", 0)]

    def test_worker_runs_it_afterwards(self, make_pair: Callable[..., Pair]) -> None:
        """A worker runs the event after the outage. No attempt is used up."""
        pair = make_pair(processing="queue", lease_seconds=1, max_attempts=1)
        pair.send(THIN)
        worker, deferred = (
            pair.deliver.receiver.services.worker,
            pair.deliver.receiver.services.deferred_results,
        )
        worker.start(1)
        wait_for(lambda: bool(len(deferred)))
        UnreachablePairs.away.clear()

        wait_for(lambda: pair.stored_thin() == ("done", "handled"))
        assert self.outcomes(pair) == [("released", 0), ("handled", 0)]


def test_late_hold_waits_for_the_next_claim(make_deliver: MakeDeliver, postgresql_url: str) -> None:
    """While the hold is taken, another process claims the event. The late one takes none."""
    inbox = make_deliver(modules=PAIR, database_url=postgresql_url).receiver.services.inbox
    late = inbox.deliveries.record_and_claim(
        NewEvent("evt_s", SNAPSHOT, livemode=False, context=None, body=b"{}")
    ).claim
    assert late is not None
    engine = sa.create_engine(postgresql_url)
    waiting = sa.text(
        "SELECT 1 FROM pg_stat_activity"
        " WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    with ThreadPoolExecutor(1) as threads:
        # A transaction would see one state of the other connections.
        watching = engine.execution_options(isolation_level="AUTOCOMMIT").connect()
        with watching as watcher, engine.begin() as other:
            other.execute(sa.text("UPDATE events SET attempt = 2, claimed_by = 'other'"))
            held = threads.submit(inbox.pairs.hold, late, "evt_s")
            wait_for(lambda: held.done() or watcher.execute(waiting).all())
        assert held.result(60) is Hold.TWIN_RUNS
    engine.dispose()
    assert raw_sql.select(postgresql_url, "stripe_receiver_pair_holds") == []


class TestHold:
    """A hold ends with its claim, however the claim ends."""

    @pytest.fixture
    def deliver(self, make_deliver: MakeDeliver, database_url: str) -> Deliver:
        """A service without deliveries. The claims of these tests are made by hand."""
        return make_deliver(modules=PAIR, database_url=database_url)

    @staticmethod
    def claim(deliver: Deliver, event_id: str) -> Claim:
        """Record an event, and claim it."""
        event = NewEvent(event_id, SNAPSHOT, livemode=False, context=None, body=b"{}")
        claim = deliver.receiver.services.inbox.deliveries.record_and_claim(event).claim
        assert claim is not None
        return claim

    def test_released_event_keeps_it_until_it_is_due(
        self, deliver: Deliver, database_url: str
    ) -> None:
        """Its callback may still run for that long."""
        inbox = deliver.receiver.services.inbox
        held, other = self.claim(deliver, "evt_s"), self.claim(deliver, "evt_n")
        assert inbox.pairs.hold(held, "evt_s") is Hold.TAKEN
        inbox.claims.release(held, 600)
        assert inbox.pairs.hold(other, "evt_s") is Hold.TWIN_RUNS
        raw_sql.execute(database_url, "UPDATE events SET due_at = 0 WHERE id = 'evt_s'")
        assert inbox.pairs.hold(other, "evt_s") is Hold.TAKEN

    def test_orphan_loses_it(self, deliver: Deliver, database_url: str) -> None:
        """Its process is dead, so the other event may run."""
        inbox = deliver.receiver.services.inbox
        held, other = self.claim(deliver, "evt_s"), self.claim(deliver, "evt_n")
        assert inbox.pairs.hold(held, "evt_s") is Hold.TAKEN
        raw_sql.execute(
            database_url,
            "UPDATE events SET suspected_lease = lease_until, suspected_seconds = 10000"
            " WHERE id = 'evt_s'",
        )
        assert inbox.pairs.hold(other, "evt_s") is Hold.TAKEN

    def test_next_claim_of_the_event_takes_it_over(self, deliver: Deliver) -> None:
        """The event runs again after a failure."""
        inbox = deliver.receiver.services.inbox
        first, other = self.claim(deliver, "evt_s"), self.claim(deliver, "evt_n")
        assert inbox.pairs.hold(first, "evt_s") is Hold.TAKEN
        assert inbox.pairs.hold(first, "evt_s") is Hold.TAKEN  # as if its answer was lost
        inbox.claims.fail(first, Failure("no"))
        second = self.claim(deliver, "evt_s")
        assert inbox.pairs.hold(second, "evt_s") is Hold.TAKEN
        assert inbox.pairs.hold(other, "evt_s") is Hold.TWIN_RUNS

    def test_lost_claim_takes_none(self, deliver: Deliver, database_url: str) -> None:
        """Another attempt has the event: this one must not run."""
        inbox = deliver.receiver.services.inbox
        lost = self.claim(deliver, "evt_s")
        raw_sql.execute(database_url, "UPDATE events SET attempt = 2 WHERE id = 'evt_s'")
        assert inbox.pairs.hold(lost, "evt_s") is Hold.TWIN_RUNS
        assert raw_sql.select(database_url, "stripe_receiver_pair_holds") == []

    def test_ended_claim_takes_none(self, deliver: Deliver) -> None:
        """A stop has released the event. A thread that asks later must not run its callback."""
        inbox = deliver.receiver.services.inbox
        ended = self.claim(deliver, "evt_s")
        inbox.claims.release(ended, 600)
        assert inbox.pairs.hold(ended, "evt_s") is Hold.TWIN_RUNS

    def test_unrecorded_success_keeps_it(self, deliver: Deliver, database_url: str) -> None:
        """The callback may have succeeded. The event is dead, and a person decides."""
        inbox = deliver.receiver.services.inbox
        held, other = self.claim(deliver, "evt_s"), self.claim(deliver, "evt_n")
        assert inbox.pairs.hold(held, "evt_s") is Hold.TAKEN
        raw_sql.execute(
            database_url,
            "UPDATE events SET state = 'dead', outcome = 'unrecorded' WHERE id = 'evt_s'",
        )
        assert inbox.pairs.hold(other, "evt_s") is Hold.TWIN_SUCCEEDED
        assert inbox.erasure.erase(deliver.receiver.event("evt_s"), "words")
        assert inbox.pairs.hold(other, "evt_s") is Hold.TWIN_SUCCEEDED

    def test_delay_grows(self) -> None:
        """A long run of the other event does not fill the history of attempts."""
        delays = [delay_of(Claim("evt", each, THIN, b"", "t")) for each in (1, 2, 3, 6, 99)]
        assert delays == [1, 2, 4, 30, 30]


class TestImport:
    """An event that another inbox handled counts there, and here after an import."""

    def test_thin_event_was_handled_elsewhere(
        self, make_deliver: MakeDeliver, stripe_api: StripeApi, pair: Pair, tmp_path: Path
    ) -> None:
        """Its record names the snapshot event, which is a twin here."""
        assert pair.send(THIN).outcome == "handled"
        lines = pair.deliver.receiver.services.inbox.transfer.read(["evt_n"])
        other = make_deliver(modules=PAIR, database_url=f"sqlite:///{tmp_path}/other.sqlite3")
        record = read_record(json.dumps(lines[0]).encode())
        other.receiver.services.inbox.transfer.add([record], runnable=False)
        assert Pair(other, stripe_api).send(SNAPSHOT).outcome == "twin"


def test_schema_of_its_own(
    make_deliver: MakeDeliver, stripe_api: StripeApi, postgresql_url: str
) -> None:
    """With ``DATABASE_SCHEMA`` all statements name the schema."""
    raw_sql.execute(postgresql_url, "CREATE SCHEMA other")
    deliver = make_deliver(modules=PAIR, database_url=postgresql_url, database_schema="other")
    pair = Pair(deliver, stripe_api)
    assert [pair.send(each).outcome for each in (THIN, SNAPSHOT)] == ["handled", "twin"]
