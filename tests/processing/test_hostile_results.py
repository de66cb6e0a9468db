"""A callback may raise anything: its event has an outcome, and other events run.

The team's code makes what is raised. Its text, attributes and headers can be anything, and can
raise themselves.

"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from app.inbox import Event, Inbox
from app.inbox.engine import postgresql_engine
from app.states import Outcome, State
from devkit import samples
from devkit.stripe_api import StripeApi
from tests.conftest import Receiver
from tests.support.waiting import wait_for

TYPE = "v1.customer.created"
CREATED = "v1_customer_created"
HOSTILE, GOOD = "evt_hostile", "evt_good"
MODES = ["inline", "queue"]
THIRTY_DAYS = 30 * 86400
LATIN1 = "ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"

MakeReceiver = Callable[..., Receiver]

HANDLER = """
    import stripe
    from app import GiveUp, RetryLater

    class Odd:
        def __str__(self):
            raise ValueError("odd")

    class OddText(Exception):
        def __init__(self, text):
            self.text = text

        def __str__(self):
            if isinstance(self.text, BaseException):
                raise self.text
            return self.text

    class OddReason(GiveUp):
        def __init__(self):
            pass

        @property
        def reason(self):
            raise ValueError("odd")

        @reason.setter
        def reason(self, value):
            pass

    class OddSeconds(RetryLater):
        def __init__(self):
            pass

        @property
        def seconds(self):
            raise ValueError("odd")

        @seconds.setter
        def seconds(self, value):
            pass

    def changed(error, **attributes):
        for name, value in attributes.items():
            setattr(error, name, value)
        return error

    def handle(notif, client):
        if notif.id == "evt_hostile":
            raise {error}
"""

ERRORS = {
    "reason raises": "changed(GiveUp('no'), reason=Odd())",
    "reason is no text": "changed(GiveUp('no'), reason=None)",
    "reason cannot be asked": "OddReason()",
    "reason with NUL": "changed(GiveUp('no'), reason='a\\0b\\ud800')",
    "seconds are a word": "changed(RetryLater(5), seconds='soon')",
    "seconds are no number": "changed(RetryLater(5), seconds=float('nan'))",
    "seconds are endless": "changed(RetryLater(5), seconds=float('inf'))",
    "seconds are too many": "changed(RetryLater(5), seconds=10 ** 400)",
    "seconds are negative": "changed(RetryLater(5), seconds=float('-inf'))",
    "seconds are none": "changed(RetryLater(5), seconds=None)",
    "seconds are a list": "changed(RetryLater(5), seconds=[5])",
    "seconds cannot be asked": "OddSeconds()",
    "text raises": "OddText(ValueError('odd'))",
    "text exits": "OddText(SystemExit(1))",
    "text is none": "OddText(None)",
    "text with surrogates": "OddText('a\\ud800\\udfff')",
    "text with NUL": "OddText('a\\0b')",
    "text is long": "OddText('x' * 10_000_000)",
    "headers are none": "changed(stripe.RateLimitError('no'), headers=None)",
    "headers are no map": "changed(stripe.RateLimitError('no'), headers=5)",
    "headers hold anything": "changed(stripe.RateLimitError('no'), headers={5: Odd()})",
    "header raises": "changed(stripe.RateLimitError('no'), headers={'Retry-After': Odd()})",
    "header is endless": "changed(stripe.RateLimitError('no'), headers={'Retry-After': '9' * 999})",
}


@pytest.fixture
def make(make_receiver: MakeReceiver) -> MakeReceiver:
    """A function that makes an application whose callback raises an ``error``, in a mode."""

    def make(error: str, mode: str, **changes: Any) -> Receiver:
        settings = {"max_attempts": 2, "retry_base_seconds": 0.01, "retry_cap_seconds": 0.01}
        modules = {CREATED: HANDLER.replace("{error}", error)}
        receiver = make_receiver(modules, processing=mode, **settings, **changes)
        receiver.services.inbox.migrate()
        if mode == "queue":
            receiver.services.worker.start(1)  # one thread: no other one can replace it
        return receiver

    return make


def deliver(receiver: Receiver, event_id: str) -> None:
    """Deliver an event to the callback."""
    notification = samples.notification(TYPE, event_id=event_id, object_id=f"object_of_{event_id}")
    receiver.deliver(notification)


def is_settled(receiver: Receiver) -> bool:
    """Return whether the event is dead or has a next attempt, with a reason."""
    event = receiver.event(HOSTILE)
    return event.state in {State.PENDING, State.DEAD} and bool(event.reason)


def settled(receiver: Receiver) -> Event:
    """Wait until the event has an outcome and its claim is settled, and return the event."""
    wait_for(partial(is_settled, receiver))
    deliver(receiver, GOOD)
    wait_for(lambda: receiver.event(GOOD).state == State.DONE)
    services = receiver.services
    wait_for(lambda: not services.deferred_results and not services.leases._held)  # noqa: SLF001 - nothing else tells
    for command in (["list"], ["list", "--json"], ["show", HOSTILE], ["show", HOSTILE, "--json"]):
        result = receiver.app.test_cli_runner().invoke(args=["events", *command])
        assert result.exit_code == 0, result.output
    event = receiver.event(HOSTILE)
    assert event.due_at <= event.received_at + THIRTY_DAYS + 60
    return event


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize("mode", MODES)
def test_hostile_error(make: MakeReceiver, mode: str, error: str) -> None:
    """The attempt is a failure, or the last one, and the commands show the event."""
    receiver = make(error, mode)

    deliver(receiver, HOSTILE)
    event = settled(receiver)

    if "GiveUp" in error:
        assert event.state == State.DEAD


@pytest.mark.parametrize("error", [each for each in ERRORS if each.startswith("seconds")])
@pytest.mark.parametrize("mode", MODES)
def test_hostile_time_on_postgresql(
    make: MakeReceiver, postgresql_url: str, mode: str, error: str
) -> None:
    """PostgreSQL rejects other numbers than SQLite does."""
    receiver = make(ERRORS[error], mode, database_url=postgresql_url)

    deliver(receiver, HOSTILE)
    settled(receiver)


@pytest.mark.parametrize("error", ["reason with NUL", "text with surrogates", "text with NUL"])
@pytest.mark.parametrize("mode", MODES)
def test_hostile_text_on_postgresql(
    make: MakeReceiver, postgresql_url: str, mode: str, error: str
) -> None:
    """PostgreSQL rejects other characters than SQLite does."""
    receiver = make(ERRORS[error], mode, database_url=postgresql_url)

    deliver(receiver, HOSTILE)
    settled(receiver)


@pytest.mark.parametrize("seconds", ["9" * 400, "9" * 4000, "9" * 12], ids=len)
def test_rate_limit_waits_for_thirty_days_at_most(
    make: MakeReceiver, stripe_api: StripeApi, database_url: str, seconds: str
) -> None:
    """The ``Retry-After`` of a 429 is limited: Stripe keeps no event longer than that."""
    error = "notif.fetch_event()"
    receiver = make(error, "queue", database_url=database_url, stripe_api_base=stripe_api.url)
    stripe_api.fail(status=429, headers={"Retry-After": seconds})

    deliver(receiver, HOSTILE)
    event = settled(receiver)

    assert (event.state, event.outcome) == (State.PENDING, Outcome.FAILED)
    assert event.settled_at is not None
    assert event.due_at - event.settled_at == pytest.approx(THIRTY_DAYS, abs=60)


def test_interrupted_callback_uses_up_its_attempts(make: MakeReceiver, database_url: str) -> None:
    """KeyboardInterrupt is an error of the callback: workers have no terminal."""
    receiver = make("KeyboardInterrupt", "queue", database_url=database_url)

    deliver(receiver, HOSTILE)
    wait_for(lambda: receiver.event(HOSTILE).state == State.DEAD)
    event = settled(receiver)

    assert (event.outcome, event.attempt) == (Outcome.EXHAUSTED, 2)
    attempts = receiver.services.inbox.administration.attempts(HOSTILE)
    assert [each.outcome for each in attempts] == [Outcome.FAILED, Outcome.EXHAUSTED]


@pytest.mark.parametrize("error", ["ValueError", "GiveUp"])
@pytest.mark.parametrize("mode", MODES)
def test_text_that_the_database_cannot_store(
    make: MakeReceiver,
    make_postgresql_url: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    error: str,
) -> None:
    """A PostgreSQL database has an encoding, which may lack characters.

    A new inbox is refused there, but one that an earlier version made is not.
    """
    url = make_postgresql_url(LATIN1)
    with monkeypatch.context() as earlier:
        earlier.setattr(postgresql_engine, "ENCODINGS", {"LATIN1"})
        inbox = Inbox(url, lease_seconds=30)
        inbox.migrate()
        inbox.close()
    receiver = make(f"{error}('caf\\u00e9 5 \\u20ac \\U0001f600')", mode, database_url=url)

    deliver(receiver, HOSTILE)
    event = settled(receiver)

    assert "caf" in str(event.reason)
