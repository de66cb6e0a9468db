"""Queue mode in one process: answers, runs, retries, dead events and releases."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from app.errors import InboxUnavailable
from app.inbox import Claim, Event, Inbox, NewEvent
from app.inbox.claims import Claims
from app.inbox.deliveries import Deliveries
from app.inbox.migrate import migrations
from app.log.plain import is_plain
from app.processing.leases import Leases
from app.processing.worker import Worker
from app.runtime import threads
from app.states import Outcome, State
from devkit import samples
from devkit.stripe_api import StripeApi
from tests.conftest import Receiver
from tests.support import raw_sql
from tests.support.waiting import wait_for

TYPE = "v1.customer.created"
CREATED = "v1_customer_created"

MakeReceiver = Callable[..., Receiver]

#: A callback that waits for ``go``, and records which callbacks run at the same time.
WAITING = """
    import threading

    begun, go, calls, inside, most = threading.Event(), threading.Event(), [], [], []

    def handle(notif, client):
        calls.append(notif.id)
        inside.append(notif.id)
        most.append(len(inside))
        begun.set()
        go.wait(60)
        inside.remove(notif.id)
"""


@pytest.fixture
def make_queue(make_receiver: MakeReceiver) -> MakeReceiver:
    """A function that makes an application in queue mode and starts its threads."""

    def make(source: str, *, threads: int = 2, **changes: Any) -> Receiver:
        settings = {"retry_base_seconds": 0.01, "retry_cap_seconds": 0.01, **changes}
        receiver = make_receiver({CREATED: source}, processing="queue", **settings)
        receiver.services.inbox.migrate()
        receiver.services.worker.start(threads)
        return receiver

    return make


def module(lines: str) -> str:
    """Return a handler whose callback has these lines and records its calls."""
    return f"calls = []\ndef handle(notif, client):\n    calls.append(notif.id)\n{lines}"


def ends(receiver: Receiver, notification: dict[str, Any], state: str) -> None:
    """Wait until the event has this state."""
    wait_for(lambda: receiver.event(notification["id"]).state == state)


def planned(receiver: Receiver) -> tuple[Event, float]:
    """Deliver an event whose callback fails. Returns the event and its delay in seconds."""
    notification = samples.notification(TYPE)
    receiver.deliver(notification)
    wait_for(lambda: receiver.event(notification["id"]).outcome == Outcome.FAILED)
    event = receiver.event(notification["id"])
    assert event.settled_at is not None
    return event, event.due_at - event.settled_at


def history(receiver: Receiver, notification: dict[str, Any]) -> list[str]:
    """Return the outcomes of the attempts of an event."""
    return [
        each.outcome for each in receiver.services.inbox.administration.attempts(notification["id"])
    ]


def test_log_lines_hold_plain_values(make_queue: MakeReceiver) -> None:
    """The lines of each delivery and attempt are rendered without a look into each value."""
    receiver = make_queue(module("    pass\n"))
    with capture_logs() as lines:
        receiver.deliver(samples.notification(TYPE))
        wait_for(lambda: any(line["event"] == "attempt" for line in lines))

    fields = {line["event"]: line for line in lines}
    for name in ("delivery", "attempt"):
        assert [each for each in fields[name].items() if not is_plain(*each)] == []


class TestAnswers:
    """A 200 means that the event is on the disk."""

    def test_delivery_is_accepted_and_run(
        self, make_queue: MakeReceiver, database_url: str
    ) -> None:
        """The answer comes before the callback, which runs once. Then the event is a duplicate."""
        receiver = make_queue(WAITING, database_url=database_url)
        notification = samples.notification(TYPE)

        first = receiver.deliver(notification)
        assert receiver.module(CREATED).begun.wait(60)
        second = receiver.deliver(notification)
        receiver.module(CREATED).go.set()
        ends(receiver, notification, State.DONE)
        third = receiver.deliver(notification)

        answers = [(each.status_code, each.json["outcome"]) for each in (first, second, third)]  # type: ignore[index]  # it is JSON
        assert answers == [(200, "accepted"), (200, "accepted"), (200, "duplicate")]
        assert receiver.module(CREATED).calls == [notification["id"]]
        event = receiver.event(notification["id"])
        assert (event.outcome, event.attempt, event.deliveries) == (Outcome.HANDLED, 1, 3)

    def test_dead_event_is_a_duplicate(self, make_queue: MakeReceiver) -> None:
        """A dead event is not accepted again."""
        receiver = make_queue(module("    from app import GiveUp; raise GiveUp('no')\n"))
        notification = samples.notification(TYPE)
        receiver.deliver(notification)
        ends(receiver, notification, State.DEAD)

        assert receiver.deliver(notification).json == {"success": True, "outcome": "duplicate"}
        assert history(receiver, notification) == [Outcome.GAVE_UP]

    def test_wrong_mode_is_recorded_and_not_run(self, make_queue: MakeReceiver) -> None:
        """The same holds in inline mode."""
        receiver = make_queue(module(""))
        notification = samples.notification(TYPE, livemode=True)

        assert receiver.deliver(notification).json == {"success": True, "outcome": "wrong_mode"}
        assert receiver.event(notification["id"]).state == State.DONE

    def test_delivery_is_accepted_without_a_notification(
        self, make_queue: MakeReceiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The event is recorded, so it does not matter that other processes are not notified."""

        def fail(_self: Inbox) -> None:
            raise InboxUnavailable("away", reason="away")

        # A test cannot choose the statement at which a real database becomes unreachable.
        monkeypatch.setattr(Deliveries, "notify", fail)
        receiver = make_queue(module(""))

        assert receiver.deliver(samples.notification(TYPE)).status_code == 200

    def test_readiness_shows_the_pause(self, make_queue: MakeReceiver) -> None:
        """Deliveries are accepted during a pause: the service is ready, and shows the pause.

        It also shows how long the oldest due event has waited.
        """
        receiver = make_queue(module(""))
        idle = {"status": "ready", "oldest_due_seconds": 0.0}
        assert receiver.client.get("/readyz").json == idle
        receiver.services.inbox.administration.pause(by="me", why=None)

        ready = receiver.client.get("/readyz")
        assert (ready.status_code, ready.json) == (200, {**idle, "paused": True})
        notification = samples.notification(TYPE)
        assert receiver.deliver(notification).status_code == 200
        # Not at once: it is rounded, and a request can take less than a millisecond.
        wait_for(lambda: receiver.client.get("/readyz").get_json()["oldest_due_seconds"] > 0)
        receiver.services.inbox.administration.resume(by="me")
        ends(receiver, notification, State.DONE)


class TestRetries:
    """A failed event is retried until it succeeds or its attempts are used up."""

    def test_failure_is_retried_until_it_succeeds(
        self, make_queue: MakeReceiver, database_url: str
    ) -> None:
        """Each attempt is stored, and failed ones with their traceback."""
        lines = "    if len(calls) < 3: raise ValueError('not yet')\n"
        receiver = make_queue(module(lines), database_url=database_url)
        notification = samples.notification(TYPE)
        receiver.deliver(notification)
        ends(receiver, notification, State.DONE)

        assert history(receiver, notification) == [Outcome.FAILED, Outcome.FAILED, Outcome.HANDLED]
        first = receiver.services.inbox.administration.attempts(notification["id"])[0]
        assert first.reason == "ValueError: not yet"
        assert f"{CREATED}.py" in str(first.traceback)

    def test_traceback_holds_no_local_variables_and_no_secrets(
        self, make_queue: MakeReceiver
    ) -> None:
        """The history of an event holds no secret."""
        lines = "    local = 'in' + 'side'\n    raise ValueError(client._requestor.api_key)\n"
        receiver = make_queue(module(lines), max_attempts=1)
        notification = samples.notification(TYPE)
        receiver.deliver(notification)
        ends(receiver, notification, State.DEAD)

        (attempt,) = receiver.services.inbox.administration.attempts(notification["id"])
        assert attempt.reason == "ValueError: [redacted]"
        assert "inside" not in str(attempt.traceback)
        assert receiver.services.settings.stripe_api_key not in str(attempt.traceback)

    @pytest.mark.parametrize("length", range(7960, 8000))
    def test_secret_at_the_cut_of_a_traceback_is_redacted(
        self, make_receiver: MakeReceiver, length: int
    ) -> None:
        """Secrets are redacted before the traceback is cut."""
        lines = f"    raise ValueError(client._requestor.api_key + 'x' * {length})\n"
        receiver = make_receiver({CREATED: module(lines)})
        notification = samples.notification(TYPE)
        receiver.deliver(notification)

        (attempt,) = receiver.services.inbox.administration.attempts(notification["id"])
        assert receiver.services.settings.stripe_api_key[8:] not in str(attempt.traceback)

    def test_exhausted_attempts_are_dead(self, make_queue: MakeReceiver) -> None:
        """The event needs a person, who sees the last reason."""
        receiver = make_queue(module("    raise ValueError('never')\n"), max_attempts=3)
        notification = samples.notification(TYPE)
        receiver.deliver(notification)
        ends(receiver, notification, State.DEAD)

        event = receiver.event(notification["id"])
        assert (event.outcome, event.reason) == (Outcome.EXHAUSTED, "ValueError: never")
        assert history(receiver, notification) == [
            Outcome.FAILED,
            Outcome.FAILED,
            Outcome.EXHAUSTED,
        ]

    def test_callback_sets_the_delay(self, make_queue: MakeReceiver) -> None:
        """RetryLater sets the delay."""
        lines = "    from app import RetryLater; raise RetryLater(3600, 'not yet shipped')\n"
        event, wait = planned(make_queue(module(lines)))

        assert wait == pytest.approx(3600)
        assert "again in 3600 s: not yet shipped" in str(event.reason)

    @pytest.mark.parametrize("asked", ["1e12", "float('inf')"])
    def test_longest_delay_is_thirty_days(self, make_queue: MakeReceiver, asked: str) -> None:
        """A delay in milliseconds by mistake does not postpone an event for ever."""
        lines = f"    from app import RetryLater; raise RetryLater({asked})\n"
        _, wait = planned(make_queue(module(lines)))

        assert wait == pytest.approx(30 * 86400)

    def test_rate_limit_delays_by_retry_after(
        self, make_queue: MakeReceiver, stripe_api: StripeApi
    ) -> None:
        """A 429 with Retry-After sets the minimum delay, and uses up less than an attempt."""
        receiver = make_queue(module("    notif.fetch_event()\n"), stripe_api_base=stripe_api.url)
        notification = samples.notification(TYPE)
        stripe_api.put_event(samples.event(notification))
        stripe_api.fail(status=429, headers={"Retry-After": "70"})
        receiver.deliver(notification)
        wait_for(lambda: receiver.event(notification["id"]).outcome == Outcome.FAILED)

        event = receiver.event(notification["id"])
        assert event.settled_at is not None
        assert event.due_at - event.settled_at >= 70
        assert 0 < event.attempts_used < 1

    def test_rate_limit_without_retry_after(
        self, make_queue: MakeReceiver, stripe_api: StripeApi
    ) -> None:
        """Without Retry-After the retry policy decides."""
        receiver = make_queue(module("    notif.fetch_event()\n"), stripe_api_base=stripe_api.url)
        notification = samples.notification(TYPE)
        stripe_api.put_event(samples.event(notification))
        stripe_api.fail(status=429)
        receiver.deliver(notification)
        ends(receiver, notification, State.DONE)

        assert history(receiver, notification) == [Outcome.FAILED, Outcome.HANDLED]

    def test_inline_mode_does_not_retry(self, make_receiver: MakeReceiver) -> None:
        """Stripe decides in inline mode. The callback's delay counts after a change of the mode."""
        lines = "    from app import RetryLater; raise RetryLater(3600)\n"
        receiver = make_receiver({CREATED: module(lines)})
        notification = samples.notification(TYPE)

        assert receiver.deliver(notification).status_code == 500
        event = receiver.event(notification["id"])
        assert event.settled_at is not None
        assert event.due_at - event.settled_at == pytest.approx(3600)
        assert event.attempts_used == 0


class TestThreads:
    """The threads share the work."""

    def test_events_of_one_object_run_one_at_a_time(self, make_queue: MakeReceiver) -> None:
        """Four threads, three events of one customer and one of another: two run at once."""
        receiver = make_queue(WAITING, threads=4)
        same = [samples.notification(TYPE, object_id="cus_1") for _ in range(3)]
        other = samples.notification(TYPE, object_id="cus_2")
        for notification in (*same, other):
            receiver.deliver(notification)

        inside = receiver.module(CREATED).inside
        wait_for(lambda: len(inside) == 2)
        assert other["id"] in inside
        receiver.module(CREATED).go.set()
        for notification in (*same, other):
            ends(receiver, notification, State.DONE)
        assert max(receiver.module(CREATED).most) == 2

    def test_events_of_other_processes_are_found(self, make_queue: MakeReceiver) -> None:
        """An idle process polls for events of which it was not notified."""
        receiver = make_queue(module(""))
        inbox = Inbox(receiver.services.settings.database_url, lease_seconds=30)
        notification = samples.notification(TYPE)
        body = samples.encode(notification)
        written = json.loads(body)
        inbox.deliveries.enqueue(
            NewEvent(written["id"], TYPE, livemode=False, context=None, body=body)
        )
        inbox.close()

        ends(receiver, notification, State.DONE)

    def test_one_idle_thread_polls(self, make_queue: MakeReceiver) -> None:
        """However many threads are idle, one of them polls, and the others wait to be woken."""
        polls: list[str] = []
        receiver = make_queue(module(""), threads=8)
        waiters = receiver.services.worker._woken._waiters  # type: ignore[attr-defined]  # noqa: SLF001 - no other way to know
        wait_for(lambda: len(waiters) == 8)
        claim_due = receiver.services.inbox.claims.claim_due

        def counted(*, livemode: bool) -> Claim | None:
            polls.append(threading.current_thread().name)
            return claim_due(livemode=livemode)

        receiver.services.inbox.claims.claim_due = counted  # type: ignore[method-assign]  # to count them
        wait_for(lambda: len(polls) > 4)

        assert len(set(polls)) == 1

    def test_orphan_of_a_dead_process_runs_again(self, make_queue: MakeReceiver) -> None:
        """An event whose lease has expired runs again, and then its object is free."""
        receiver = make_queue(module(""), threads=0, lease_seconds=5)
        notification = samples.notification(TYPE)
        receiver.deliver(notification)
        receiver.services.inbox.claims.claim_due(livemode=False)
        url = receiver.services.settings.database_url
        raw_sql.execute(url, "UPDATE events SET lease_until = 0")

        receiver.services.worker.start(1)
        ends(receiver, notification, State.DONE)
        assert history(receiver, notification) == [Outcome.CRASHED, Outcome.HANDLED]

    def test_poison_event_is_dead(
        self, make_queue: MakeReceiver, logged: Callable[[str], dict[str, Any]]
    ) -> None:
        """After MAX_CRASHES the event is dead without another run, and an error is logged."""
        receiver = make_queue(module(""), threads=0, max_crashes=1, lease_seconds=5)
        notification = samples.notification(TYPE)
        receiver.deliver(notification)
        receiver.services.inbox.claims.claim_due(livemode=False)
        url = receiver.services.settings.database_url
        raw_sql.execute(url, "UPDATE events SET lease_until = 0")

        receiver.services.worker.start(1)
        ends(receiver, notification, State.DEAD)
        receiver.services.worker.join()
        assert receiver.module(CREATED).calls == []
        line = logged("event_crashed")
        assert (line["level"], line["event_id"]) == ("error", notification["id"])

    def test_one_line_for_each_attempt(
        self, make_queue: MakeReceiver, logged: Callable[[str], dict[str, Any]]
    ) -> None:
        """The line has the identifiers, the account, the outcome and the duration."""
        receiver = make_queue(module(""))
        notification = samples.notification(TYPE, context="acct_1")
        receiver.deliver(notification)
        ends(receiver, notification, State.DONE)
        receiver.services.worker.join()

        line = logged("attempt")
        assert line.pop("duration_ms") > 0
        del line["timestamp"]
        assert line == {
            "level": "info",
            "event": "attempt",
            "outcome": "handled",
            "attempt": 1,
            "event_id": notification["id"],
            "event_type": TYPE,
            "context": "acct_1",
        }


def has_poller(receiver: Receiver) -> bool:
    """Return whether a thread polls, and so all of them wait."""
    return receiver.services.worker._has_poller  # noqa: SLF001 - no other way to know


def is_listening(url: str) -> bool:
    """Return whether a worker listens for due events at this PostgreSQL database."""
    who = "pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'"
    return bool(raw_sql.select(url, who))


class TestIdle:
    """Idle workers are woken. Polling is only for events without a notification."""

    @pytest.fixture(autouse=True)
    def never_poll(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make the time between two polls too long for a test."""
        monkeypatch.setattr("app.processing.worker.POLL_SECONDS", 600.0)

    def test_delivery_wakes_the_workers_of_its_process(self, make_queue: MakeReceiver) -> None:
        """A delivery wakes an idle worker of its process."""
        receiver = make_queue(module(""))
        wait_for(lambda: has_poller(receiver))
        notification = samples.notification(TYPE)

        receiver.deliver(notification)

        ends(receiver, notification, State.DONE)

    def test_delivery_wakes_the_workers_of_other_processes(
        self, make_queue: MakeReceiver, make_receiver: MakeReceiver, postgresql_url: str
    ) -> None:
        """PostgreSQL notifies the workers of other processes."""
        runs = make_queue(module(""), database_url=postgresql_url)
        records = make_receiver(processing="queue", database_url=postgresql_url)
        wait_for(lambda: has_poller(runs) and is_listening(postgresql_url))
        notification = samples.notification(TYPE)

        records.deliver(notification)

        ends(runs, notification, State.DONE)


class TestFaults:
    """No fault ends a thread."""

    def test_outage_is_logged_once(
        self,
        make_queue: MakeReceiver,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """The outage is logged once, not at every poll, and after it events run again."""
        away = threading.Event()
        away.set()
        tries: list[int] = []
        claim_due = Claims.claim_due

        def unreliable(self: Claims, *, livemode: bool) -> Claim | None:
            if away.is_set():
                tries.append(1)
                raise InboxUnavailable("away", reason="away")
            return claim_due(self, livemode=livemode)

        def is_tried() -> bool:
            receiver.services.worker.wake()
            return len(tries) > 4

        # Tests with real servers cover real outages. This one counts the log lines.
        monkeypatch.setattr(Claims, "claim_due", unreliable)
        receiver = make_queue(module(""))
        notification = samples.notification(TYPE)
        receiver.deliver(notification)
        wait_for(is_tried)
        away.clear()
        ends(receiver, notification, State.DONE)
        receiver.services.worker.join()

        assert capsys.readouterr().err.count('"inbox_unavailable"') == 1

    def test_unexpected_error_ends_no_thread(
        self,
        make_queue: MakeReceiver,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """Neither an error in claiming nor one in running ends a thread."""
        failing = ["claim", "run"]
        claim_due = Claims.claim_due

        def odd(self: Claims, *, livemode: bool) -> Claim | None:
            if "claim" in failing:
                failing.remove("claim")
                raise RuntimeError("unforeseen")
            return claim_due(self, livemode=livemode)

        # Only a mistake in the service could raise it, and none is known.
        monkeypatch.setattr(Claims, "claim_due", odd)
        receiver = make_queue(module(""), threads=1, lease_seconds=1)
        run = receiver.services.runner.run

        def odd_run(claim: Claim) -> Outcome:
            if "run" in failing:
                failing.remove("run")
                raise RuntimeError("unforeseen")
            return run(claim)

        receiver.services.runner.run = odd_run  # type: ignore[method-assign]  # as above
        notification = samples.notification(TYPE)
        receiver.deliver(notification)
        ends(receiver, notification, State.DONE)
        receiver.services.worker.join()

        said = capsys.readouterr().err
        assert '"claim_failed"' in said
        assert '"run_failed"' in said

    def test_error_at_any_place_ends_no_thread(
        self, make_queue: MakeReceiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Memory can run out at any place. The threads of worker and leases continue."""
        failing = ["wait", "tick"]

        def run_short(name: str, act: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any) -> Any:
                if name in failing:
                    failing.remove(name)
                    raise MemoryError
                return act(*arguments)

            return call

        # A test cannot exhaust all memory at these moments.
        monkeypatch.setattr(threads, "PAUSE_SECONDS", 0.01)
        monkeypatch.setattr(Worker, "_wait", run_short("wait", Worker._wait))  # noqa: SLF001 - the same
        monkeypatch.setattr(Leases, "_tick", run_short("tick", Leases._tick))  # noqa: SLF001 - the same
        receiver = make_queue(module(""), threads=1, lease_seconds=1)
        wait_for(lambda: not failing)
        notification = samples.notification(TYPE)
        receiver.deliver(notification)
        ends(receiver, notification, State.DONE)
        receiver.services.worker.join()
        inbox = receiver.services.inbox
        for name in ("evt_mine", "evt_other"):
            inbox.deliveries.enqueue(NewEvent(name, TYPE, livemode=False, context=None, body=b"{}"))
        claim = inbox.claims.claim_one("evt_mine", by="me")
        other = inbox.claims.claim_one("evt_other", by="me")
        assert claim is not None
        assert other is not None

        with receiver.services.leases.renewing(claim):
            wait_for(lambda: receiver.event("evt_other").is_orphan)
            assert not receiver.event("evt_mine").is_orphan

    def test_tables_of_a_newer_version_end_no_thread(
        self, make_queue: MakeReceiver, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A process of the old version logs that once, and waits for its replacement."""
        receiver = make_queue(module(""), threads=0)
        inbox, url = receiver.services.inbox, receiver.services.settings.database_url
        raw_sql.set_revision(url, "9999")
        file = inbox._store.engine._file  # type: ignore[attr-defined]  # noqa: SLF001 - as in a process that started without it
        file.migrated = False
        tries: list[int] = []
        claim_due = inbox.claims.claim_due

        def counted(*, livemode: bool) -> Claim | None:
            tries.append(1)
            return claim_due(livemode=livemode)

        def is_tried() -> bool:
            receiver.services.worker.wake()
            return len(tries) > 2

        inbox.claims.claim_due = counted  # type: ignore[method-assign]  # to count them
        receiver.services.worker.start(1)
        wait_for(is_tried)
        raw_sql.set_revision(url, migrations().head)
        notification = samples.notification(TYPE)
        receiver.deliver(notification)
        ends(receiver, notification, State.DONE)
        receiver.services.worker.join()

        said = capsys.readouterr().err
        assert said.count('"inbox_unavailable"') == 1
        assert "made by a newer version" in said

    def test_orphan_runs_at_once(
        self, make_queue: MakeReceiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The process that finds an orphan runs it without waiting for the next poll."""
        monkeypatch.setattr(
            "app.processing.worker.RESCUE_SECONDS", 600.0
        )  # longer than a test waits
        receiver = make_queue(module(""), threads=0, lease_seconds=1)
        notification = samples.notification(TYPE)
        receiver.deliver(notification)
        receiver.services.inbox.claims.claim_due(livemode=False)

        receiver.services.worker.start(1)
        ends(receiver, notification, State.DONE)
        receiver.services.worker.join()

    def test_rescue_delays_no_other_thread(
        self, make_queue: MakeReceiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """While one thread claims an orphan, the other threads claim due events."""
        begun, go = threading.Event(), threading.Event()
        claim_orphan = Claims.claim_orphan

        def slow(self: Claims, *, livemode: bool) -> Claim | None:
            begun.set()
            go.wait(60)
            return claim_orphan(self, livemode=livemode)

        # A real inbox cannot be slow for one statement only.
        monkeypatch.setattr(Claims, "claim_orphan", slow)
        receiver = make_queue(module(""), threads=2)
        assert begun.wait(60)
        notification = samples.notification(TYPE)
        receiver.deliver(notification)

        ends(receiver, notification, State.DONE)
        go.set()

    def test_orphans_run_one_at_a_time(
        self, make_queue: MakeReceiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An event that ends its process must not make orphans of the same other events again."""
        monkeypatch.setattr(
            "app.processing.worker.RESCUE_SECONDS", 0.0
        )  # every claim tries to rescue
        receiver = make_queue(WAITING, threads=0)
        same = [samples.notification(TYPE) for _ in range(3)]
        for notification in same:
            receiver.deliver(notification)
            receiver.services.inbox.claims.claim_due(livemode=False)
        raw_sql.orphan(receiver.services.settings.database_url)

        receiver.services.worker.start(4)
        assert receiver.module(CREATED).begun.wait(60)
        fresh = samples.notification(TYPE)
        receiver.deliver(fresh)
        wait_for(lambda: fresh["id"] in receiver.module(CREATED).inside)
        assert len(receiver.module(CREATED).inside) == 2
        receiver.module(CREATED).go.set()
        for notification in (*same, fresh):
            ends(receiver, notification, State.DONE)
        assert max(receiver.module(CREATED).most) == 2

    def test_hanging_orphan_delays_others_for_a_limited_time(
        self, make_queue: MakeReceiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It may have been killed because it hangs, and there may be no other process."""
        monkeypatch.setattr(
            "app.processing.worker.RESCUE_SECONDS", 0.0
        )  # every claim tries to rescue
        monkeypatch.setattr(
            "app.processing.worker.ALONE_SECONDS", 1.0
        )  # half a minute is too long for a test
        receiver = make_queue(WAITING, threads=0)
        for notification in [samples.notification(TYPE) for _ in range(3)]:
            receiver.deliver(notification)
            receiver.services.inbox.claims.claim_due(livemode=False)
        raw_sql.orphan(receiver.services.settings.database_url)

        receiver.services.worker.start(4)
        wait_for(lambda: len(receiver.module(CREATED).inside) == 3)
        receiver.module(CREATED).go.set()


def claiming_slowly(make_queue: MakeReceiver, monkeypatch: pytest.MonkeyPatch) -> Receiver:
    """Return an application whose inbox answers a claim only while events are released."""
    claim_due = Claims.claim_due
    begun = threading.Event()

    def claim_late(self: Claims, *, livemode: bool) -> Claim | None:
        begun.set()
        wait_for(lambda: receiver.services.worker._is_releasing)  # noqa: SLF001 - nothing else tells
        return claim_due(self, livemode=livemode)

    # A test cannot choose the moment at which a real database answers.
    monkeypatch.setattr(Claims, "claim_due", claim_late)
    receiver = make_queue(module(""), threads=0)
    receiver.services.worker.start(1)
    assert begun.wait(60)
    return receiver


class TestStop:
    """A stop waits for running events or releases them."""

    def test_stop_claims_no_event(self, make_queue: MakeReceiver) -> None:
        """Due events stay pending for the next process."""
        receiver = make_queue(WAITING, threads=1)
        running, waiting = samples.notification(TYPE), samples.notification(TYPE)
        receiver.deliver(running)
        assert receiver.module(CREATED).begun.wait(60)
        receiver.deliver(waiting)

        receiver.services.worker.stop()
        assert receiver.services.worker.unfinished == 1
        receiver.module(CREATED).go.set()
        receiver.services.worker.join()

        assert receiver.services.worker.unfinished == 0
        assert receiver.event(running["id"]).state == State.DONE
        assert receiver.event(waiting["id"]).state == State.PENDING

    def test_running_event_is_released(self, make_queue: MakeReceiver) -> None:
        """The event is due before its lease ends. A success before its next claim counts."""
        receiver = make_queue(WAITING, threads=1)
        notification = samples.notification(TYPE)
        receiver.deliver(notification)
        assert receiver.module(CREATED).begun.wait(60)
        receiver.services.worker.stop()

        receiver.services.worker.release()
        event = receiver.event(notification["id"])
        assert (event.state, event.outcome, event.locked_key) == (
            State.PENDING,
            Outcome.RELEASED,
            None,
        )
        receiver.module(CREATED).go.set()
        receiver.services.worker.join()
        event = receiver.event(notification["id"])
        assert (event.state, event.outcome, event.attempt) == (State.DONE, Outcome.HANDLED, 1)

    def test_release_may_fail(
        self, make_queue: MakeReceiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Without its inbox the process ends all the same, and the lease expires."""
        receiver = make_queue(WAITING, threads=1)
        receiver.deliver(samples.notification(TYPE))
        assert receiver.module(CREATED).begun.wait(60)

        def fail(_self: Inbox, _claim: Claim, _delay: float) -> bool:
            raise InboxUnavailable("away", reason="away")

        with monkeypatch.context() as patch:
            patch.setattr(Claims, "release", fail)  # a test cannot choose that moment
            receiver.services.worker.release()
        receiver.module(CREATED).go.set()

    def test_claim_in_progress_is_released(
        self, make_queue: MakeReceiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A claim that the inbox answers during the release is given back, and never run."""
        receiver = claiming_slowly(make_queue, monkeypatch)
        notification = samples.notification(TYPE)
        receiver.deliver(notification)
        wait_for(lambda: receiver.services.worker.unfinished == 1)
        receiver.services.worker.stop()

        receiver.services.worker.release()

        event = receiver.event(notification["id"])
        assert (event.state, event.outcome) == (State.PENDING, Outcome.RELEASED)
        receiver.services.worker.join()
        assert receiver.module(CREATED).calls == []

    def test_release_waits_for_no_hung_claim(
        self, make_queue: MakeReceiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The process ends soon, even if the inbox does not answer a claim."""
        asked, answered = threading.Event(), threading.Event()

        def hang(_self: Claims, **_mode: bool) -> None:
            asked.set()
            answered.wait(60)

        monkeypatch.setattr(Claims, "claim_due", hang)  # a test cannot choose that moment
        monkeypatch.setattr("app.processing.worker.END_SECONDS", 0.05)
        receiver = make_queue(module(""), threads=1)
        assert asked.wait(60)
        receiver.services.worker.stop()

        receiver.services.worker.release()

        assert receiver.services.worker.unfinished == 1
        answered.set()

    def test_listener_connects_again(
        self, make_queue: MakeReceiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """When its connection is lost, the listener connects again."""
        tried = threading.Event()
        lost = [True]
        listen = Claims.listen

        def unreliable(self: Claims, act: Callable[[], object], stopping: threading.Event) -> None:
            if lost:
                lost.clear()
                raise InboxUnavailable("away", reason="away")
            tried.set()
            listen(self, act, stopping)

        monkeypatch.setattr(Claims, "listen", unreliable)  # as above
        make_queue(module(""))

        assert tried.wait(60)
