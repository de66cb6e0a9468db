"""A claimed event is run through the SDK's handler, and its result is recorded."""

from __future__ import annotations

import contextlib
import importlib.abc
import json
import re
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from app.errors import CallbackFailed, Deferred, InboxUnavailable
from app.inbox import Claim, Inbox, NewEvent
from app.inbox.claims import Claims
from app.processing.receiver import Receiver as Core
from app.runtime import forks
from app.states import Outcome, State
from devkit import samples
from devkit.stripe_api import StripeApi
from tests.conftest import Receiver
from tests.support import raw_sql
from tests.support.waiting import wait_for

TYPE = "v1.customer.created"
CREATED = "v1_customer_created"

MakeReceiver = Callable[..., Receiver]


def accept(receiver: Receiver, notification: dict[str, Any] | None = None) -> Claim:
    """Record a notification as a delivery does, and return the claim."""
    body = samples.encode(notification or samples.notification(TYPE))
    values = json.loads(body)
    event = NewEvent(values["id"], values["type"], livemode=False, context=None, body=body)
    claim = receiver.services.inbox.deliveries.record_and_claim(event).claim
    assert claim is not None
    return claim


def module(source: str) -> dict[str, str]:
    """Return a handler module for customers whose callback has the given lines."""
    return {CREATED: f"calls = []\ndef handle(notif, client):\n    calls.append(notif)\n{source}"}


def test_fields_that_a_callback_binds_stay_in_its_lines(
    make_receiver: MakeReceiver, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither the service's lines nor the next event of the same thread have these fields."""
    source = """
    import structlog
    structlog.get_logger().warning("begins")
    structlog.contextvars.bind_contextvars(event_id=f"mine of {notif.id}", order="or_1")
    structlog.get_logger().warning("bound")
    raise ValueError
"""
    receiver = make_receiver(module(source), log_level="warning")
    for event_id in ("evt_1", "evt_2"):
        claim = accept(receiver, samples.notification(TYPE, event_id=event_id))
        with pytest.raises(CallbackFailed):
            receiver.services.runner.run(claim)

    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["event"], line["event_id"], line.get("order")) for line in lines] == [
        ("begins", "evt_1", None),
        ("bound", "mine of evt_1", "or_1"),
        ("callback_raised", "evt_1", None),
        ("begins", "evt_2", None),
        ("bound", "mine of evt_2", "or_1"),
        ("callback_raised", "evt_2", None),
    ]


def test_callback_gets_the_notification_and_a_client(
    make_receiver: MakeReceiver, stripe_api: StripeApi
) -> None:
    """fetch_event and fetch_related_object use the event's context and need no ids."""
    source = "    calls.extend([notif.fetch_event(), notif.fetch_related_object(), client])\n"
    receiver = make_receiver(module(source), stripe_api_base=stripe_api.url)
    notification = samples.notification(TYPE, context="acct_1")
    stripe_api.put_event(samples.event(notification))
    stripe_api.put_related_object(notification, name="Jenny")

    assert receiver.services.runner.run(accept(receiver, notification)) == Outcome.HANDLED

    notif, event, customer, _client = receiver.module(CREATED).calls
    assert type(notif).__name__ == "V1CustomerCreatedEventNotification"
    assert event.id == notification["id"]
    assert customer.name == "Jenny"
    assert [(asked.path, asked.stripe_context) for asked in stripe_api.asked] == [
        (f"/v2/core/events/{notification['id']}", "acct_1"),
        (notification["related_object"]["url"], "acct_1"),
    ]
    assert {asked.request_trigger for asked in stripe_api.asked} == {f"event={notification['id']}"}


def test_success_is_recorded(make_receiver: MakeReceiver) -> None:
    """A callback that returns has succeeded."""
    receiver = make_receiver(module(""))
    claim = accept(receiver)

    assert receiver.services.runner.run(claim) == Outcome.HANDLED
    assert receiver.event(claim.event_id).state == State.DONE


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("    raise ValueError('no such plan')\n", "ValueError: no such plan"),
        ("    raise KeyError('id')\n", "KeyError: 'id'"),
        ("    import sys; sys.exit(1)\n", "SystemExit: 1"),
        (
            "    import asyncio; raise asyncio.CancelledError\n",
            "asyncio.exceptions.CancelledError",
        ),
        (
            "    class Odd:\n"
            "        def __str__(self): raise TypeError('odd')\n"
            "    from app import GiveUp\n"
            "    raise GiveUp(Odd())\n",
            "TypeError: odd",
        ),
        ("    raise ValueError('a\\0b\\ud800')\n", "ValueError: a\ufffdb?"),
        ("    raise ValueError('x' * 5000)\n", "ValueError: " + "x" * 988),
        (
            "    class Odd(Exception):\n"
            "        def __str__(self): raise TypeError\n"
            "    raise Odd\n",
            "{package}.v1_customer_created.handle.<locals>.Odd: <exception str() failed>",
        ),
        (
            "    import stripe\n"
            "    raise stripe.SignatureVerificationError('not ours', 'header', 'marker')\n",
            "stripe._error.SignatureVerificationError: not ours",
        ),
    ],
    ids=[
        "value",
        "key",
        "exit",
        "cancelled",
        "odd reason",
        "unstorable",
        "long",
        "unprintable",
        "verification",
    ],
)
def test_raising_fails_the_attempt(
    make_receiver: MakeReceiver,
    capsys: pytest.CaptureFixture[str],
    database_url: str,
    source: str,
    reason: str,
) -> None:
    """The event is retried. The reason is stored, and logged with the traceback."""
    receiver = make_receiver(module(source), database_url=database_url)
    claim = accept(receiver)

    with pytest.raises(CallbackFailed, match="the callback failed"):
        receiver.services.runner.run(claim)

    event = receiver.event(claim.event_id)
    assert (event.state, event.outcome) == (State.PENDING, Outcome.FAILED)
    package = receiver.services.settings.handlers_package
    assert event.reason == reason.format(package=package)
    (line,) = lines(capsys, "callback_raised")
    assert (line["event_id"], line["event_type"], line["attempt"]) == (claim.event_id, TYPE, 1)
    assert f"{CREATED}.py" in line["exception"]


def lines(capsys: pytest.CaptureFixture[str], name: str) -> list[dict[str, Any]]:
    """Return the log lines of this name."""
    logged = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    return [line for line in logged if line["event"] == name]


class Broken(importlib.abc.MetaPathFinder):
    """Lets the import of one module fail, as in a process without free file descriptors."""

    def __init__(self, name: str, error: Exception) -> None:
        """Take the module's name and the error of its import."""
        self.name, self.error = name, error

    def find_spec(self, fullname: str, _path: object, _target: object = None) -> None:
        """Raise for the module, and find no other."""
        if fullname == self.name:
            raise self.error


@pytest.mark.parametrize(
    ("event_type", "error"),
    [
        ("v1.tax_rate.created", OSError(24, "Too many open files")),
        ("v1.tax_rate.updated", ImportError("replaced")),
        ("v1.plan.created", MemoryError()),
    ],
)
def test_fault_of_this_process_does_not_mark_an_event_dead(
    make_receiver: MakeReceiver, event_type: str, error: Exception
) -> None:
    """The SDK imports a class at the first event of its type. The event can be retried."""
    receiver = make_receiver()
    notification = samples.notification(event_type)
    name = f"stripe.events._{event_type.replace('.', '_')}_event"
    known = sys.modules.pop(name, None)
    broken = Broken(name, error)
    sys.meta_path.insert(0, broken)
    try:
        answer = receiver.deliver(notification)
    finally:
        sys.meta_path.remove(broken)
        if known is not None:
            sys.modules[name] = known

    assert answer.status_code == 500
    assert receiver.event(notification["id"]).state == State.PENDING
    assert receiver.deliver(notification).status_code == 200


def test_callback_does_not_run_twice_after_its_lease(make_receiver: MakeReceiver) -> None:
    """After an outage longer than the lease the event could be claimed, but it still runs."""
    source = """
        import threading
        begun, go, calls = threading.Event(), threading.Event(), []
        def handle(notif, client):
            calls.append(notif)
            begun.set()
            go.wait(60)
    """
    receiver = make_receiver({CREATED: source})
    notification = samples.notification(TYPE)
    running = threading.Thread(target=receiver.deliver, args=[notification])
    running.start()
    try:
        assert receiver.module(CREATED).begun.wait(60)
        url = receiver.services.settings.database_url
        raw_sql.execute(url, "UPDATE events SET lease_until = 0")

        answer = receiver.deliver(notification)
    finally:
        receiver.module(CREATED).go.set()
        running.join(60)

    assert answer.status_code == 409
    assert len(receiver.module(CREATED).calls) == 1
    event = receiver.event(notification["id"])
    assert (event.state, event.attempt, event.deliveries) == (State.DONE, 1, 2)


def test_interrupt_fails_the_attempt_and_is_raised(make_receiver: MakeReceiver) -> None:
    """Ctrl-C in a command that runs events stops the command and loses no event."""
    receiver = make_receiver(module("    raise KeyboardInterrupt\n"))
    claim = accept(receiver)

    with pytest.raises(KeyboardInterrupt):
        receiver.services.runner.run(claim)

    event = receiver.event(claim.event_id)
    assert (event.state, event.reason) == (State.PENDING, "interrupted")


def test_interrupt_loses_no_success(
    make_receiver: MakeReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while a command records a success: it is recorded before the command ends."""
    receiver = make_receiver(module(""), lease_seconds=1)
    claim = accept(receiver)
    interrupts = [KeyboardInterrupt]
    finish = Claims.finish

    def interrupted_finish(claims: Claims, claim: Claim, outcome: Outcome) -> bool:
        if interrupts:
            raise interrupts.pop()
        return finish(claims, claim, outcome)

    # A signal would not reliably come in that moment.
    monkeypatch.setattr(Claims, "finish", interrupted_finish)
    with pytest.raises(KeyboardInterrupt):
        receiver.services.runner.run(claim)

    wait_for(lambda: len(receiver.services.deferred_results) == 0)
    assert receiver.event(claim.event_id).state == State.DONE
    assert len(receiver.module(CREATED).calls) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_error_after_the_callback_loses_no_success(
    make_receiver: MakeReceiver, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    """Ctrl-C or an error between the return of the callback and its result: it does not run again.

    A command ends with the interrupt.
    """
    receiver = make_receiver(module(""))
    claim = accept(receiver)

    @contextlib.contextmanager
    def failing_afterwards() -> Iterator[None]:
        yield
        raise error

    # Neither a signal nor a lack of memory would reliably come in that moment.
    monkeypatch.setattr(forks, "ending_in_the_block", failing_afterwards)
    expected = pytest.raises(error) if error is KeyboardInterrupt else contextlib.nullcontext()
    with expected:
        assert receiver.services.runner.run(claim) == Outcome.HANDLED

    assert receiver.event(claim.event_id).state == State.DONE
    assert len(receiver.module(CREATED).calls) == 1


def test_giving_up_with_a_subclass(make_receiver: MakeReceiver) -> None:
    """A subclass of GiveUp need not call its constructor."""
    source = (
        "    from app import GiveUp\n"
        "    class NoPlan(GiveUp):\n"
        "        def __init__(self): pass\n"
        "        def __str__(self): return 'no plan'\n"
        "    raise NoPlan\n"
    )
    receiver = make_receiver(module(source))
    claim = accept(receiver)

    assert receiver.services.runner.run(claim) == Outcome.GAVE_UP
    assert receiver.event(claim.event_id).reason == "no plan"


def test_giving_up_makes_the_event_dead(make_receiver: MakeReceiver) -> None:
    """GiveUp is never retried, and its reason is stored."""
    receiver = make_receiver(module("    from app import GiveUp\n    raise GiveUp('no plan')\n"))
    claim = accept(receiver)

    assert receiver.services.runner.run(claim) == Outcome.GAVE_UP
    event = receiver.event(claim.event_id)
    assert (event.state, event.outcome, event.reason) == (State.DEAD, Outcome.GAVE_UP, "no plan")


@pytest.mark.parametrize(
    "change",
    [
        {"related_object": None},
        {"context": 7},
        {"reason": [1]},
        {"detail": {"object": "v2.core.event", "id": "evt_other", "type": TYPE}},
        {
            "detail": {
                "object": "v2.core.event",
                "id": "evt_other",
                "type": TYPE,
                "created": "",
                "related_object": {"id": "cus_1", "type": "customer", "url": "/v1/x"},
            }
        },
    ],
    ids=["related_object", "context", "reason", "envelope", "another event in an envelope"],
)
def test_unreadable_event_is_dead_and_not_run(
    make_receiver: MakeReceiver, change: dict[str, Any]
) -> None:
    """An authentic event that this SDK cannot read is dead until a person retries it."""
    receiver = make_receiver(module(""))
    claim = accept(receiver, {**samples.notification(TYPE), **change})

    assert receiver.services.runner.run(claim) == Outcome.UNREADABLE
    event = receiver.event(claim.event_id)
    assert (event.state, event.outcome) == (State.DEAD, Outcome.UNREADABLE)
    assert event.reason
    assert receiver.module(CREATED).calls == []


def test_returned_awaitable_is_a_failure(make_receiver: MakeReceiver) -> None:
    """A decorator can hide ``async def`` from the check at the start. The event is not done."""
    source = """
        async def later(notif, client): pass
        handle = lambda notif, client: later(notif, client)
    """
    receiver = make_receiver({CREATED: source})
    claim = accept(receiver)

    with pytest.raises(CallbackFailed):
        receiver.services.runner.run(claim)
    assert "returned an awaitable, which never ran" in str(receiver.event(claim.event_id).reason)


def test_lines_of_a_callback_carry_the_event(
    make_receiver: MakeReceiver, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lines of a callback, by structlog or the standard library, carry the event's fields."""
    source = (
        "    import logging, structlog\n"
        "    structlog.get_logger().info('mine')\n"
        "    logging.getLogger('team').warning('theirs')\n"
    )
    receiver = make_receiver(module(source))
    notification = samples.notification(TYPE, event_id="evt_1", context="acct_1")
    assert receiver.deliver(notification).status_code == 200

    logged = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["event"] for line in logged] == ["mine", "theirs", "delivery"]
    about = ("event_id", "event_type", "context")
    assert {tuple(line[name] for name in about) for line in logged} == {("evt_1", TYPE, "acct_1")}


#: Outcomes of a run, each with its log lines.
ENDINGS = {
    "raised": ("    raise ValueError\n", {"callback_raised"}),
    "gave up": ("    from app import GiveUp\n    raise GiveUp('no')\n", {"callback_gave_up"}),
    "limited": ("    notif.fetch_event()\n", {"stripe_rate_limited", "callback_raised"}),
}


@pytest.mark.parametrize("ending", list(ENDINGS))
@pytest.mark.parametrize("mode", ["inline", "queue"])
def test_every_line_about_an_event_has_its_context(
    make_receiver: MakeReceiver,
    stripe_api: StripeApi,
    capsys: pytest.CaptureFixture[str],
    mode: str,
    ending: str,
) -> None:
    """Each line of an event's delivery, runs and end has its context."""
    source, names = ENDINGS[ending]
    receiver = make_receiver(
        module(source),
        processing=mode,
        max_attempts=2,
        retry_base_seconds=0.01,
        stripe_api_base=stripe_api.url,
        stripe_rate_limit=1000,
    )
    stripe_api.fail(status=429)
    receiver.deliver(samples.notification(TYPE, event_id="evt_1", context="acct_1"))
    if mode == "queue":
        receiver.services.worker.start(1)
        wait_for(lambda: receiver.event("evt_1").state == State.DEAD)
        receiver.services.worker.join()
        names = names | {"attempt"}

    found = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert names | {"delivery"} <= {line["event"] for line in found}
    about = [line for line in found if line["event"] in names or "event_id" in line]
    assert {(line["event_id"], line["context"]) for line in about} == {("evt_1", "acct_1")}


def test_runner_that_lost_its_claim_records_nothing(
    make_receiver: MakeReceiver, database_url: str
) -> None:
    """When another attempt claimed the event, the success of this one is not recorded."""
    receiver = make_receiver(module(""), database_url=database_url)
    claim = accept(receiver)
    late = replace(claim, attempt=claim.attempt - 1)

    with pytest.raises(Deferred, match="taken over"):
        receiver.services.runner.run(late)

    event = receiver.event(claim.event_id)
    assert (event.state, event.attempt) == (State.RUNNING, 1)


class UnreachableClaims(Claims):
    """The real claims. The inbox cannot be reached while ``away`` is set.

    A subclass, because a test cannot choose the statement at which a real database becomes
    unreachable. tests/processes/test_inline.py stops a real PostgreSQL.

    """

    away = threading.Event()
    how: Exception = InboxUnavailable("away", reason="away")

    def finish(self, claim: Claim, outcome: Outcome = Outcome.HANDLED) -> bool:
        """Raise while ``away`` is set."""
        if self.away.is_set():
            raise self.how
        return super().finish(claim, outcome)


class Unreachable(Inbox):
    """An inbox with these claims."""

    def __init__(self, url: str, **settings: Any) -> None:
        """Take the arguments of an inbox."""
        super().__init__(url, **settings)
        self.claims = UnreachableClaims(self._store)


def test_deferred_success_is_recorded_later(
    make_receiver: MakeReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A callback that succeeded during an outage does not run again after it."""
    monkeypatch.setattr("app.factory.Inbox", Unreachable)
    receiver = make_receiver(module(""), lease_seconds=1)
    claim = accept(receiver)
    UnreachableClaims.away.set()

    with pytest.raises(InboxUnavailable):
        receiver.services.runner.run(claim)
    assert receiver.event(claim.event_id).state == State.RUNNING
    assert len(receiver.services.deferred_results) == 1
    UnreachableClaims.away.clear()

    wait_for(lambda: receiver.event(claim.event_id).state == State.DONE)
    assert receiver.module(CREATED).calls[1:] == []


def test_deferred_success_is_recorded_before_the_event_can_run_again(
    make_receiver: MakeReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an outage longer than the lease: 409 until the result is recorded, then a duplicate."""
    monkeypatch.setattr("app.factory.Inbox", Unreachable)
    receiver = make_receiver(module(""), lease_seconds=1)
    notification = samples.notification(TYPE)
    UnreachableClaims.away.set()
    assert receiver.deliver(notification).status_code == 503
    raw_sql.execute(receiver.services.settings.database_url, "UPDATE events SET lease_until = 0")
    assert receiver.deliver(notification).status_code == 409
    UnreachableClaims.away.clear()
    wait_for(lambda: receiver.event(notification["id"]).state == State.DONE)

    answer = receiver.deliver(notification)

    assert (answer.status_code, answer.json) == (200, {"success": True, "outcome": "duplicate"})
    assert len(receiver.module(CREATED).calls) == 1
    assert receiver.event(notification["id"]).attempt == 1


def test_success_that_can_never_be_recorded_is_dead(
    make_receiver: MakeReceiver, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is no outage, so a retry would fail too: the event is dead, and does not run again."""
    monkeypatch.setattr("app.factory.Inbox", Unreachable)
    monkeypatch.setattr(UnreachableClaims, "how", RuntimeError("unforeseen"))
    receiver = make_receiver(module(""))
    notification = samples.notification(TYPE)
    UnreachableClaims.away.set()
    try:
        answers = [receiver.deliver(notification).json for _ in range(2)]
    finally:
        UnreachableClaims.away.clear()

    assert [answer and answer["outcome"] for answer in answers] == ["handled", "duplicate"]
    event = receiver.event(notification["id"])
    assert (event.state, event.outcome) == (State.DEAD, Outcome.UNRECORDED)
    assert event.reason == "the callback succeeded, but that could not be recorded"
    assert len(receiver.services.deferred_results) == 0
    (line,) = lines(capsys, "result_not_recorded")
    assert line["outcome"] == "handled"


def test_one_runner_serves_all(make_receiver: MakeReceiver) -> None:
    """The receiver and all other callers share one runner."""
    receiver = make_receiver()
    assert isinstance(receiver.services.receiver, Core)
    assert receiver.services.receiver._runner is receiver.services.runner  # noqa: SLF001 - the wiring


def test_poison_event_is_logged_when_it_is_marked_dead(
    make_receiver: MakeReceiver, capsys: pytest.CaptureFixture[str]
) -> None:
    """In inline mode the delivery that marks it dead gets a 200, so an error is logged."""
    receiver = make_receiver(module(""), max_crashes=1)
    notification = samples.notification(TYPE)
    accept(receiver, notification)
    raw_sql.orphan(receiver.services.settings.database_url)

    answer = receiver.deliver(notification)

    assert answer.json == {"success": True, "outcome": "duplicate"}
    assert receiver.event(notification["id"]).state == State.DEAD
    (line,) = lines(capsys, "event_crashed")
    assert (line["level"], line["event_id"]) == ("error", notification["id"])


@pytest.mark.parametrize(
    ("source", "exception", "place"),
    [
        (module("    raise ValueError(notif.id)\n"), "ValueError", r"/v1_customer_created\.py:4"),
        # Without a line of the team: that of the library, and not one of the SDK before it.
        ({CREATED: "from textwrap import indent as handle\n"}, "AttributeError", r"textwrap\.py:"),
        (module("    return call()\nasync def call(): pass\n"), "TypeError", r"app/processing/"),
    ],
    ids=["own", "library", "service"],
)
def test_failure_has_an_error_group(
    make_receiver: MakeReceiver, source: dict[str, str], exception: str, place: str
) -> None:
    """The event, its attempt and the list of groups name it, with the release."""
    receiver = make_receiver(source, release="1.4.2")
    for event_id in ("evt_1", "evt_2"):
        with pytest.raises(CallbackFailed):
            receiver.services.runner.run(
                accept(receiver, samples.notification(TYPE, event_id=event_id))
            )

    (group,) = receiver.services.inbox.groups.list(10)
    assert (group.exception, group.attempts, group.open.number) == (exception, 2, 2)
    assert re.search(place, group.place or "")
    (attempt,) = receiver.services.inbox.administration.attempts("evt_1")
    assert (attempt.fingerprint, attempt.release) == (group.fingerprint, "1.4.2")


def test_unreadable_event_has_an_error_group(make_receiver: MakeReceiver) -> None:
    """Its place is in the SDK: no callback was called."""
    receiver = make_receiver({})
    notification = {**samples.notification(TYPE), "related_object": "cus_1"}
    assert receiver.services.runner.run(accept(receiver, notification)) == Outcome.UNREADABLE

    (group,) = receiver.services.inbox.groups.list(10)
    assert (group.place or "").startswith("stripe/")
    assert group.open.number == 1
