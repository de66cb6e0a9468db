"""Policies: constants of a handler module, which are checked at start."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest

from app import start_warnings
from app.environment import Misspelt, Origin
from app.errors import CallbackFailed, StartError
from app.processing import registry
from app.processing.policies import Policy
from app.states import Outcome, State
from devkit import samples
from devkit.deliver import Logged
from tests.conftest import MakeHandlers, Receiver
from tests.support.waiting import wait_for

TYPE = "v1.customer.created"
MODULE = "v1_customer_created"
HANDLE = "def handle(notif, client): pass\n"
SNAPSHOT_HANDLE = "def handle(event, client): pass\n"
COUNTING = "calls = []\ndef handle(notif, client): calls.append(notif.id)\n"
FAILING = "def handle(notif, client): raise OSError\n"


def test_module_without_a_constant_has_no_policy(make_handlers: MakeHandlers) -> None:
    """The settings hold for its type. Constants of the team's own have no effect."""
    own = "RETRY_MAX_SECONDS = 3\nPRICES = {}\nTYPES = ()\nSHALLOW = 1\nmax_attempts = 3\n"
    (module,) = registry.load(make_handlers(**{MODULE: own + HANDLE})).modules

    assert module.policy == Policy()
    assert str(module.policy) == ""


def test_policies_are_read_from_the_constants(make_handlers: MakeHandlers) -> None:
    """An imported constant counts like one of the module."""
    source = "from ._shared import MAX_ATTEMPTS\nRETRY_BASE_SECONDS = 60\n"
    package = make_handlers(_shared="MAX_ATTEMPTS = 3\n", **{MODULE: source + HANDLE})

    loaded = registry.load(package)

    assert loaded.policies == {TYPE: Policy(max_attempts=3, retry_base_seconds=60)}
    assert str(loaded.policies[TYPE]) == "MAX_ATTEMPTS=3, RETRY_BASE_SECONDS=60"


def test_snapshot_events_are_not_coalesced(make_handlers: MakeHandlers) -> None:
    """Each has its own copy of the object. Other policies are for events of both kinds."""
    source = "def handle(event, client): pass\nCONCURRENCY = 2\nCOALESCE = {}\n"
    with pytest.raises(StartError) as raised:
        registry.load(make_handlers(customer_created=source.format("True")))
    (problem,) = raised.value.problems
    assert "COALESCE is for thin events" in problem

    loaded = registry.load(make_handlers(customer_created=source.format("False")))
    assert loaded.policies == {"customer.created": Policy(concurrency=2)}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("MAX_ATTEMPTS = 0", "MAX_ATTEMPTS is 0. Use a whole number from 1 to 10000"),
        ("MAX_ATTEMPTS = True", "MAX_ATTEMPTS is True. Use a whole number from 1 to 10000"),
        ("MAX_ATTEMPTS = '3'", "MAX_ATTEMPTS is '3'. Use a whole number from 1 to 10000"),
        (
            "RETRY_BASE_SECONDS = float('nan')",
            "RETRY_BASE_SECONDS is nan. Use a number of seconds from 0.01 to 86400",
        ),
        ("COALESCE = 1", "COALESCE is 1. Use True or False"),
        ("SHADOW = 'yes'", "SHADOW is 'yes'. Use True or False"),
        ("CONCURRENCY = 0", "CONCURRENCY is 0. Use a whole number from 1 to 1024"),
        ("PRIORITY = 'high'", "PRIORITY is 'high'. Use 'normal' or 'low'"),
        ("PRIORITY = 1", "PRIORITY is 1. Use 'normal' or 'low'"),
        (
            "MAX_ATEMPTS = 3",
            "MAX_ATEMPTS has no effect; nearest: MAX_ATTEMPTS. Correct or rename it",
        ),
        ("SHADWO = True", "SHADWO has no effect; nearest: SHADOW. Correct or rename it"),
        ("PRIORTIY = 'low'", "PRIORTIY has no effect; nearest: PRIORITY. Correct or rename it"),
        (
            "EVENT_TIPE = 'v1.x'",
            "EVENT_TIPE has no effect; nearest: EVENT_TYPE. Correct or rename it",
        ),
    ],
)
def test_wrong_constant_is_refused_by_name(
    make_handlers: MakeHandlers, line: str, problem: str
) -> None:
    """A start fails with the constant, its value, and the values that are allowed."""
    package = make_handlers(**{MODULE: f"{line}\n{HANDLE}"})

    with pytest.raises(StartError) as raised:
        registry.load(package)

    assert raised.value.problems == [f"{package}/{MODULE}.py: {problem}"]


def test_all_problems_are_reported_at_once(make_handlers: MakeHandlers) -> None:
    """Several wrong constants, and one in the fallback, which can have none."""
    fallback = "MAX_ATTEMPTS = 3\ndef handle(notif, client, details): pass\n"
    wrong = f"MAX_ATTEMPTS = -1\nRETRY_BASE_SECONDS = None\n{HANDLE}"
    package = make_handlers(fallback=fallback, **{MODULE: wrong})

    with pytest.raises(StartError) as raised:
        registry.load(package)

    assert [each.partition(": ")[2] for each in raised.value.problems] == [
        "MAX_ATTEMPTS has no effect in the fallback. Set it in a type's own module",
        "MAX_ATTEMPTS is -1. Use a whole number from 1 to 10000",
        "RETRY_BASE_SECONDS is None. Use a number of seconds from 0.01 to 86400",
    ]


def test_type_has_its_own_number_of_attempts_and_delay(
    make_receiver: Callable[..., Receiver],
) -> None:
    """An event is dead after MAX_ATTEMPTS of its module. Other types keep the settings."""
    own = "MAX_ATTEMPTS = 1\nRETRY_BASE_SECONDS = 0.01\n"
    receiver = make_receiver(
        {MODULE: own + FAILING, "v1_invoice_paid": FAILING},
        processing="queue",
        retry_base_seconds=1000.0,
    )
    services = receiver.services
    for each in (TYPE, "v1.invoice.paid"):
        receiver.deliver(samples.notification(each, event_id=f"evt_{each}"))
        claim = services.inbox.claims.claim_due(livemode=False)
        assert claim is not None
        with suppress(CallbackFailed):
            services.runner.run(claim)

    own_event, other = receiver.event(f"evt_{TYPE}"), receiver.event("evt_v1.invoice.paid")
    assert (own_event.state, own_event.outcome) == (State.DEAD, Outcome.EXHAUSTED)
    assert other.state == State.PENDING
    assert other.due_at > other.received_at + 0.01


def test_start_in_inline_mode_says_that_policies_have_no_effect(
    make_receiver: Callable[..., Receiver], logged: Logged
) -> None:
    """Stripe decides when it delivers an event again, so the modules' limits do not hold."""
    services = make_receiver({MODULE: f"MAX_ATTEMPTS = 3\n{HANDLE}"}).services

    start_warnings.warn(services.settings, services.registry)

    assert logged("policies_without_effect")["policies"] == {TYPE: "MAX_ATTEMPTS=3"}


def test_start_in_inline_mode_says_nothing_of_a_shadow(
    make_receiver: Callable[..., Receiver], capsys: pytest.CaptureFixture[str]
) -> None:
    """A shadow is one in both modes."""
    modules = {MODULE: f"SHADOW = True\n{HANDLE}", "customer_created": SNAPSHOT_HANDLE}
    services = make_receiver(modules).services

    start_warnings.warn(services.settings, services.registry)

    assert "policies_without_effect" not in capsys.readouterr().err


def test_start_in_queue_mode_says_nothing(
    make_receiver: Callable[..., Receiver], capsys: pytest.CaptureFixture[str]
) -> None:
    """There the policies have their effect."""
    modules = {MODULE: f"MAX_ATTEMPTS = 3\n{HANDLE}"}
    services = make_receiver(modules, processing="queue").services

    start_warnings.warn(services.settings, services.registry)

    assert "policies_without_effect" not in capsys.readouterr().err


def test_priority_and_limit_reach_the_workers(make_receiver: Callable[..., Receiver]) -> None:
    """An event of low priority waits for the others, and no more of a type run than its limit."""
    modules = {
        MODULE: f"PRIORITY = 'low'\n{HANDLE}",
        "v1_invoice_paid": f"CONCURRENCY = 1\nPRIORITY = 'normal'\n{HANDLE}",
    }
    receiver = make_receiver(modules, processing="queue")
    for number in range(2):
        for each in (TYPE, "v1.invoice.paid"):
            receiver.deliver(samples.notification(each, event_id=f"evt_{each}_{number}"))
    claims = receiver.services.inbox.claims

    found = [claims.claim_due(livemode=False) for _ in range(4)]

    assert [each and each.type for each in found] == ["v1.invoice.paid", TYPE, TYPE, None]


def test_policies_hold_in_queue_mode_only(make_receiver: Callable[..., Receiver]) -> None:
    """In inline mode Stripe decides when an event runs, so events wait in no lane of their own."""
    receiver = make_receiver({MODULE: f"CONCURRENCY = 1\n{FAILING}"})

    receiver.deliver(samples.notification(TYPE, event_id="evt_1"))

    event = receiver.event("evt_1")
    assert (event.state, event.lane) == (State.PENDING, "")


def test_one_run_serves_all_due_events_of_an_object(
    make_receiver: Callable[..., Receiver], logged: Logged
) -> None:
    """The attempt's line counts the superseded events. To run one of them too is asked for."""
    receiver = make_receiver(
        {MODULE: f"COALESCE = True\n{COUNTING}"},
        processing="queue",
    )
    for number in range(3):
        event = samples.notification(TYPE, event_id=f"evt_{number}", object_id="cus_1")
        receiver.deliver(event)
    receiver.services.worker.start(1)
    wait_for(lambda: receiver.event("evt_2").state == State.DONE)
    receiver.services.worker.join()

    assert receiver.module(MODULE).calls == ["evt_2"]
    assert receiver.event("evt_0").outcome == Outcome.SUPERSEDED
    assert logged("attempt")["superseded"] == 2
    retried = receiver.app.test_cli_runner().invoke(args=["events", "retry", "evt_0", "--yes"])
    assert "evt_0: was superseded by a newer event; to run it too add --again" in retried.stderr


def test_start_names_misspelt_settings(
    make_receiver: Callable[..., Receiver], logged: Logged
) -> None:
    """Each with the setting that it resembles: it has no effect."""
    origin = Origin(misspelt=(Misspelt("WEB_CONCURENCY", "WEB_CONCURRENCY"),))
    services = make_receiver({}, origin=origin).services

    start_warnings.warn(services.settings, services.registry)

    assert logged("setting_unknown")["variable"] == "WEB_CONCURENCY"
