"""The circuit breaker of an event type: it opens, probes and closes."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from app.inbox import Inbox, NewEvent
from app.inbox.models import BREAKER
from app.inbox.sql import type_breakers as statements
from app.processing import type_breaker
from app.processing.type_breaker import TypeBreaker
from app.states import Outcome, State
from app.stripe_api.event_body import read_event
from devkit import samples
from devkit.deliver import MakeDeliver
from devkit.stripe_api import StripeApi
from tests.conftest import Receiver
from tests.support import raw_sql
from tests.support.waiting import wait_for

TYPE, MODULE = "v1.customer.created", "v1_customer_created"
LIMIT = 3

#: A callback that fails until ``works`` is set.
SOURCE = """
    import threading

    works = threading.Event()

    def handle(notif, client):
        if not works.is_set():
            raise OSError("the ledger is down")
"""


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits for seconds to pass."""
    monkeypatch.setattr(type_breaker, "CONFIRM_SECONDS", -1.0)
    monkeypatch.setattr(type_breaker, "PROBE_SECONDS", -1.0)


def make(inbox: Inbox, *, threads: bool = False) -> tuple[TypeBreaker, list[str]]:
    """Return the circuit breakers of a process, and the list of the types that it probes."""
    breaker, probed = TypeBreaker(inbox.type_breakers, LIMIT), list[str]()
    breaker.busy_and_idle = lambda: (0, int(threads))
    breaker.probe = probed.append
    return breaker, probed


def attempt(breaker: TypeBreaker, *outcomes: Outcome) -> None:
    """Let a process have these attempts, and then its round."""
    for outcome in outcomes:
        breaker.after(lambda *_: None)(TYPE, outcome, 0.1)
    breaker.run()


def paused_by(inbox: Inbox) -> str | None:
    """Return who has paused the type."""
    note = inbox.administration.paused_types().get(TYPE)
    return note.by if note else None


FAILED, HANDLED = Outcome.FAILED, Outcome.HANDLED


def test_failures_of_all_processes_count(inbox: Inbox) -> None:
    """The type is paused by the circuit breaker, once, with an entry of the audit log."""
    (one, _), (two, _) = make(inbox), make(inbox)
    attempt(one, FAILED)
    attempt(two, FAILED, Outcome.EXHAUSTED)
    assert paused_by(inbox) is None

    for each in (one, two, one):
        each.run()

    assert paused_by(inbox) == BREAKER
    (entry,) = inbox.administration.audit(10)
    assert (entry.by, entry.action, entry.target) == (BREAKER, "pause", TYPE)
    assert entry.why == "3 failures in a row"


@pytest.mark.parametrize("outcome", [Outcome.GAVE_UP, Outcome.UNREADABLE, Outcome.TWIN])
def test_other_ends_are_neither_failures_nor_successes(inbox: Inbox, outcome: Outcome) -> None:
    """The callback decided it, or was never called."""
    breaker, _ = make(inbox)
    attempt(breaker, FAILED, outcome, FAILED, outcome)
    breaker.run()
    assert paused_by(inbox) is None
    attempt(breaker, FAILED)
    breaker.run()
    assert paused_by(inbox) == BREAKER


def test_success_in_any_process_begins_anew(inbox: Inbox) -> None:
    """Also one that another process had before it saw the failures, or between two rounds."""
    (one, _), (two, _) = make(inbox), make(inbox)
    attempt(two, HANDLED)
    attempt(one, FAILED, FAILED, FAILED)
    two.run()
    one.run()
    assert paused_by(inbox) is None

    attempt(one, FAILED, FAILED, HANDLED, FAILED)
    one.run()
    attempt(one, FAILED)
    one.run()
    assert paused_by(inbox) is None


def test_failures_before_a_success_of_the_same_round_do_not_count(inbox: Inbox) -> None:
    """Only those after it are added to the inbox."""
    breaker, _ = make(inbox)
    attempt(breaker, FAILED, FAILED, HANDLED, FAILED)

    (failing,) = inbox.type_breakers.failing()
    assert failing.failures == 1


def test_breaker_waits_for_the_reports_of_other_processes(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A type at its limit is not paused before each process had a round."""
    monkeypatch.setattr(type_breaker, "CONFIRM_SECONDS", 60.0)
    breaker, _ = make(inbox)
    attempt(breaker, FAILED, FAILED, FAILED)
    breaker.run()

    assert paused_by(inbox) is None
    assert inbox.administration.audit(10) == []


def test_pause_that_another_process_began(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry of the process that came second says that it changed nothing."""
    # The moment between its two statements cannot be chosen.
    monkeypatch.setattr(statements, "DUE", sa.select(sa.literal(1)))
    assert not inbox.type_breakers.open(TYPE, "3 failures in a row", 0.0)

    (entry,) = inbox.administration.audit(10)
    assert entry.affected == 0


def test_one_process_with_threads_probes(inbox: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once in a while, and not a process that answers requests only."""
    web, probed_by_web = make(inbox)
    attempt(web, FAILED, FAILED, FAILED)
    web.run()
    web.run()
    one, probed_by_one = make(inbox, threads=True)
    two, probed_by_two = make(inbox, threads=True)
    one.run()
    monkeypatch.setattr(type_breaker, "PROBE_SECONDS", 60.0)
    for each in (one, two):
        each.run()

    assert (probed_by_web, probed_by_one, probed_by_two) == ([], [TYPE], [])


def test_twin_as_probe_leaves_the_type_paused(
    inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No callback has run. The next round tries another event, and does not wait for a minute."""
    breaker, probed = make(inbox, threads=True)
    attempt(breaker, FAILED, FAILED, FAILED)
    breaker.run()
    breaker.run()
    monkeypatch.setattr(type_breaker, "PROBE_SECONDS", 60.0)

    attempt(breaker, Outcome.TWIN)
    attempt(breaker)

    assert paused_by(inbox) == BREAKER
    assert probed == [TYPE, TYPE]


def test_thin_module_that_always_fails_is_paused(
    make_deliver: MakeDeliver, stripe_api: StripeApi, database_url: str
) -> None:
    """Each failed thin event of a pair becomes the twin of its snapshot event at its retry."""
    deliver = make_deliver(
        modules={
            "customer_created": "def handle(event, client): pass\n",
            MODULE: "def handle(notif, client): raise OSError\n",
        },
        database_url=database_url,
        processing="queue",
        retry_base_seconds=1e-6,
        retry_cap_seconds=1e-6,
        type_breaker_failures=LIMIT,
    )
    services = deliver.receiver.services
    (task,) = [each for each in services.maintenance._tasks if each.name == "type_breakers"]  # noqa: SLF001 - no other way
    for _ in range(LIMIT):
        thin = samples.notification(TYPE)
        stripe_api.put_event(samples.event(thin, snapshot_event=f"{thin['id']}_s"))
        deliver(thin)
        deliver(samples.snapshot_event("customer.created", event_id=f"{thin['id']}_s"))
        deliver.run_due()
        deliver.run_due()
        task.run()
        assert deliver.receiver.event(thin["id"]).outcome == Outcome.TWIN
    task.run()

    assert paused_by(services.inbox) == BREAKER


def test_pause_of_a_person_is_ended_by_that_person_only(inbox: Inbox) -> None:
    """A person who pauses the type takes the pause over. A success does not end it."""
    breaker, probed = make(inbox, threads=True)
    attempt(breaker, FAILED, FAILED, FAILED)
    breaker.run()
    assert inbox.administration.pause(by="jenny", why="it is night", type_=TYPE)
    assert not inbox.administration.pause(by="joe", why=None, type_=TYPE)

    breaker.run()
    attempt(breaker, HANDLED)

    assert paused_by(inbox) == "jenny"
    assert probed == []
    attempt(breaker, FAILED, FAILED, FAILED)
    breaker.run()
    entries = inbox.administration.audit(10)
    breaker.run()
    breaker.run()
    assert paused_by(inbox) == "jenny"
    assert inbox.administration.audit(10) == entries


def test_person_resumes_and_the_count_begins_anew(inbox: Inbox) -> None:
    """The breaker does not pause the type again before the limit is reached again."""
    breaker, _ = make(inbox)
    attempt(breaker, FAILED, FAILED, FAILED)
    breaker.run()
    assert inbox.administration.resume(by="jenny", type_=TYPE)

    attempt(breaker, FAILED)
    breaker.run()

    assert paused_by(inbox) is None


def test_workers_probe_and_resume(
    make_receiver: Callable[..., Receiver], database_url: str
) -> None:
    """A failed probe leaves the type paused. The first that succeeds lets all events run."""
    receiver = make_receiver(
        {MODULE: SOURCE},
        processing="queue",
        database_url=database_url,
        retry_base_seconds=0.01,
        retry_cap_seconds=0.01,
        type_breaker_failures=LIMIT,
        max_attempts=10000,
    )
    services, works = receiver.services, receiver.module(MODULE).works
    (task,) = [each for each in services.maintenance._tasks if each.name == "type_breakers"]  # noqa: SLF001 - no other way
    for number in range(4):
        receiver.deliver(samples.notification(TYPE, event_id=f"evt_{number}"))
    services.worker.start(2)

    def is_paused() -> bool:
        task.run()
        services.inbox.administration.park()
        return paused_by(services.inbox) == BREAKER

    wait_for(is_paused)
    stats = receiver.app.test_cli_runner().invoke(args=["events", "stats"])
    assert f"{TYPE} (by its circuit breaker)" in stats.stdout
    attempts = sum(receiver.event(f"evt_{number}").attempt for number in range(4))

    def was_probed() -> bool:
        task.run()
        services.inbox.administration.park()
        return sum(receiver.event(f"evt_{number}").attempt for number in range(4)) > attempts

    wait_for(was_probed)
    assert is_paused()
    works.set()
    wait_for(lambda: not is_paused())
    wait_for(lambda: all(receiver.event(f"evt_{n}").state == State.DONE for n in range(4)))
    services.worker.join()
    actions = [(each.by, each.action) for each in services.inbox.administration.audit(10)]
    assert actions == [(BREAKER, "resume"), (BREAKER, "pause")]


def parked_event(inbox: Inbox, event_id: str, *, livemode: bool = False) -> None:
    """Record an event of the paused type and of one object, and park it."""
    event = NewEvent(event_id, TYPE, livemode, None, b"{}", "- customer cus_1")
    inbox.deliveries.enqueue(event)
    inbox.administration.park()


class TestProbe:
    """``claim_parked``: an event of a paused type is tried."""

    @pytest.fixture(autouse=True)
    def _paused(self, inbox: Inbox) -> None:
        inbox.administration.pause(by=BREAKER, why="3 failures in a row", type_=TYPE)

    def test_events_of_the_object_do_not_run_at_once(self, inbox: Inbox) -> None:
        """Neither another probe, nor an event after the end of the pause."""
        parked_event(inbox, "evt_1")
        parked_event(inbox, "evt_2")
        probe = inbox.claims.claim_parked(TYPE, livemode=False)
        assert probe is not None

        assert inbox.claims.claim_parked(TYPE, livemode=False) is None
        inbox.administration.resume(by="jenny", type_=TYPE)
        inbox.administration.park()
        assert inbox.claims.claim_due(livemode=False) is None

        assert inbox.claims.finish(probe)
        assert inbox.claims.claim_due(livemode=False) is not None

    def test_mode_of_the_key_holds(self, inbox: Inbox) -> None:
        """An event of live mode is not run with a test key."""
        parked_event(inbox, "evt_1", livemode=True)

        assert inbox.claims.claim_parked(TYPE, livemode=False) is None
        assert inbox.claims.claim_parked(TYPE, livemode=True) is not None

    def test_nothing_is_probed_while_all_types_are_paused(self, inbox: Inbox) -> None:
        """A person has paused all events."""
        parked_event(inbox, "evt_1")
        inbox.administration.pause(by="jenny", why=None)

        assert inbox.claims.claim_parked(TYPE, livemode=False) is None


def test_probe_without_a_parked_event_runs_nothing(
    make_receiver: Callable[..., Receiver],
) -> None:
    """All events of the type may wait for their retry."""
    services = make_receiver({MODULE: SOURCE}, processing="queue").services
    services.inbox.migrate()
    services.worker.probe(TYPE)
    services.worker.start(1)

    wait_for(lambda: not services.worker._probes)  # noqa: SLF001 - nothing else shows it

    services.worker.join()


def test_crashed_probe_is_probed_again(inbox: Inbox, database_url: str) -> None:
    """Its event may be the only one of its type. No worker rescues it while the type is paused."""
    inbox.migrate()
    body = json.dumps(samples.notification(TYPE, event_id="evt_1")).encode()
    inbox.deliveries.enqueue(read_event(body))
    inbox.administration.pause(by=BREAKER, why=None, type_=TYPE)
    inbox.administration.park()
    assert inbox.claims.claim_parked(TYPE, livemode=False)
    assert inbox.claims.claim_parked(TYPE, livemode=False) is None
    raw_sql.orphan(database_url)

    assert inbox.claims.claim_orphan(livemode=False) is None
    again = inbox.claims.claim_parked(TYPE, livemode=False)

    assert again is not None
    assert (again.event_id, again.attempt) == ("evt_1", 2)


def test_limit_of_zero_switches_it_off(make_receiver: Callable[..., Receiver]) -> None:
    """Then no process counts failures in the inbox."""
    services = make_receiver({}, processing="queue", type_breaker_failures=0).services

    assert "type_breakers" not in {each.name for each in services.maintenance._tasks}  # noqa: SLF001 - no other way


def test_pause_without_its_count_is_probed_and_ended(inbox: Inbox) -> None:
    """A resume was interrupted after it forgot the failures. The type is not paused for ever."""
    breaker, probed = make(inbox, threads=True)
    inbox.administration.pause(by=BREAKER, why="3 failures in a row", type_=TYPE)

    breaker.run()
    assert probed == [TYPE]
    attempt(breaker, HANDLED)

    assert paused_by(inbox) is None
