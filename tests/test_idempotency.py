"""Idempotency keys, and effects that a retry does not repeat."""

from __future__ import annotations

import importlib
import os
import re
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import stripe

from app import idempotency_key, once
from app.errors import InboxUnavailable
from app.idempotency import share_action
from app.inbox.effects import Effects
from devkit.deliver import Deliver, Delivery, MakeDeliver, RunHandler
from devkit.stripe_api import StripeApi
from tests.conftest import MakeHandlers
from tests.support.waiting import wait_for

TYPE = "v1.customer.created"
MODULE = "v1_customer_created"

#: Sends a mail, and then does what the test sets.
HANDLE = """
    import app

    mails, keys = [], []
    after = before_end = lambda notif: None

    def handle(notif, client):
        keys.append(app.idempotency_key(notif, "refund"))
        with app.once(notif, "mail") as first:
            if first:
                mails.append(notif.id)
            before_end(notif)
        after(notif)
"""


@dataclass
class Notification:
    """An object with an id, as an event notification is."""

    id: str


def fail(_notif: object) -> None:
    """Raise, as a callback does."""
    raise LookupError


@pytest.fixture
def mailing(make_deliver: MakeDeliver) -> Deliver:
    """``deliver`` for a service whose callback sends a mail once."""
    return make_deliver(modules={MODULE: HANDLE})


def module(deliver: Deliver) -> Any:
    """Return the handler module."""
    return deliver.receiver.module(MODULE)


def effects(deliver: Deliver, delivery: Delivery) -> list[str]:
    """Return the recorded effects of an event."""
    found = deliver.receiver.services.inbox.effects.of_event(delivery.notification["id"])
    return [each.purpose for each in found]


class TestKey:
    """A key names one request of one event."""

    def test_it_is_stable_and_names_event_and_purpose(self) -> None:
        """A person finds the event by the key in Stripe's dashboard."""
        notif = Notification("evt_1")
        assert idempotency_key(notif, "refund") == "evt_1:refund"
        assert idempotency_key(Notification("evt_2"), "refund") == "evt_2:refund"

    def test_no_run_shares_a_key(self) -> None:
        """Only a run can be of an action with two events."""
        share_action("evt_snapshot")
        assert idempotency_key(Notification("evt_1"), "refund") == "evt_1:refund"

    def test_both_kinds_of_events_have_one(self) -> None:
        """A notification and a snapshot event have an id."""
        event = stripe.Event.construct_from({"id": "evt_1", "object": "event"}, "sk_test_fake")
        assert idempotency_key(event, "refund") == "evt_1:refund"

    @pytest.mark.parametrize("event_id", ["e" * 255, "evt:1", "evt_1"])
    def test_stripe_accepts_each(self, event_id: str) -> None:
        """At most 255 characters of a header's value, and different for each purpose."""
        purposes = ["p", "p" * 100, "a purpose", "a:purpose"]
        keys = {idempotency_key(Notification(event_id), each) for each in purposes}
        assert len(keys) == len(purposes)
        assert all(re.fullmatch(r"[\x21-\x7e][\x20-\x7e]{0,254}", key) for key in keys)

    def test_no_two_pairs_have_one_key(self) -> None:
        """A colon in an id or in a purpose makes no difference."""
        pairs = [("evt", "1:a"), ("evt:1", "a"), ("evt:1:a", "a"), ("evt", "1:a:a")]
        assert len({idempotency_key(Notification(one), other) for one, other in pairs}) == 4

    @pytest.mark.parametrize("purpose", ["", " mail", "mail ", "ma\nil", "\u00fc", "p" * 101, None])
    def test_wrong_purpose_is_refused(self, purpose: Any) -> None:
        """It could not be sent, or not be stored."""
        with pytest.raises(ValueError, match="Use 1 to 100 characters of printable ASCII"):
            idempotency_key(Notification("evt_1"), purpose)

    def test_key_reaches_stripe(
        self, run_handler: RunHandler, make_handlers: MakeHandlers, stripe_api: StripeApi
    ) -> None:
        """The option of the SDK takes it."""
        source = """
    import app

    def handle(notif, client):
        options = {"idempotency_key": app.idempotency_key(notif, "greet")}
        client.v1.customers.update("cus_1", {"description": "new"}, options)
"""
        stripe_api.put("/v1/customers/cus_1", {"id": "cus_1", "object": "customer"})
        package = make_handlers(**{MODULE: source})
        run_handler(importlib.import_module(f"{package}.{MODULE}"), event_id="evt_1")
        assert [each.idempotency_key for each in stripe_api.asked] == ["evt_1:greet"]


class TestOnce:
    """An effect that is recorded is skipped by the next attempt."""

    def test_retry_does_not_repeat_it(self, mailing: Deliver) -> None:
        """The callback fails after the effect. The keys of both attempts are the same."""
        module(mailing).after = fail
        first = mailing(TYPE)
        module(mailing).after = lambda _notif: None
        assert [first.outcome, first.again().outcome] == ["failed", "handled"]
        assert module(mailing).mails == [first.notification["id"]]
        assert len(set(module(mailing).keys)) == 1
        assert effects(mailing, first) == ["mail"]

    def test_effect_that_failed_is_repeated(self, mailing: Deliver) -> None:
        """An exception in the block leaves no record."""
        module(mailing).before_end = fail
        first = mailing(TYPE)
        assert effects(mailing, first) == []
        module(mailing).before_end = lambda _notif: None
        assert first.again().outcome == "handled"
        assert len(module(mailing).mails) == 2

    def test_each_event_has_its_own(self, mailing: Deliver) -> None:
        """Two events have two effects."""
        ids = [mailing(TYPE).notification["id"] for _ in range(2)]
        assert module(mailing).mails == ids

    def test_queue_mode(self, make_deliver: MakeDeliver) -> None:
        """A worker's retry skips it, too."""
        deliver = make_deliver(
            modules={MODULE: HANDLE}, processing="queue", retry_base_seconds=0.01
        )

        def fail_first(notif: object) -> None:
            if len(module(deliver).keys) == 1:
                fail(notif)

        module(deliver).after = fail_first
        deliver.receiver.services.worker.start(1)
        delivery = deliver(TYPE)
        wait_for(lambda: deliver.receiver.event(delivery.notification["id"]).state == "done")
        assert len(module(deliver).keys) == 2
        assert module(deliver).mails == [delivery.notification["id"]]

    def test_inbox_that_is_unavailable_at_the_record(
        self, mailing: Deliver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The attempt fails, and the next one repeats the effect: nothing says that it was done."""

        def unavailable(*_arguments: object) -> None:
            raise InboxUnavailable("the inbox is not available", reason="test")

        with monkeypatch.context() as patch:
            # A mock: an outage that ends before the result of the attempt is recorded.
            patch.setattr(Effects, "record", unavailable)
            first = mailing(TYPE)
        assert first.outcome == "failed"
        assert first.again().outcome == "handled"
        assert len(module(mailing).mails) == 2

    def test_hook_can_use_it(self, make_deliver: MakeDeliver) -> None:
        """It works in ``around`` as in a callback."""
        hook = """
    from contextlib import contextmanager
    import app

    seen = []

    @contextmanager
    def around(notif, client):
        yield
        with app.once(notif, "ledger") as first:
            seen.append(first)
        if len(seen) == 1:
            raise LookupError
"""
        deliver = make_deliver(modules={"around": hook, MODULE: HANDLE})
        first = deliver(TYPE)
        assert [first.outcome, first.again().outcome] == ["failed", "handled"]
        assert deliver.receiver.module("around").seen == [True, False]
        assert sorted(effects(deliver, first)) == ["ledger", "mail"]

    def test_run_handler_remembers_effects(
        self, run_handler: RunHandler, make_handlers: MakeHandlers
    ) -> None:
        """A test of a callback alone can show that the second run skips it."""
        handlers = importlib.import_module(f"{make_handlers(**{MODULE: HANDLE})}.{MODULE}")
        for event_id in ("evt_1", "evt_1", "evt_2"):
            run_handler(handlers, event_id=event_id)
        assert handlers.mails == ["evt_1", "evt_2"]


class TestRefusals:
    """Where no effect could be recorded, it says so before the effect."""

    def test_outside_of_a_callback(self) -> None:
        """There is no event to record it with."""
        with (
            pytest.raises(RuntimeError, match="only while a callback runs"),
            once(Notification("evt_1"), "mail"),
        ):
            pass

    def test_after_the_callback(self, mailing: Deliver) -> None:
        """A thread that the callback left behind has the context, and no event any more."""
        contexts: list[Any] = []
        module(mailing).after = lambda notif: contexts.append((notif, copy_context()))
        mailing(TYPE)
        ((notif, context),) = contexts
        with pytest.raises(RuntimeError, match="only while a callback runs"):
            context.run(lambda: once(notif, "late").__enter__())

    def test_other_event(self, mailing: Deliver) -> None:
        """Its effects are those of its own run."""
        module(mailing).after = lambda _notif: once(Notification("evt_2"), "mail").__enter__()
        delivery = mailing(TYPE, event_id="evt_1")
        assert delivery.event is not None
        assert delivery.event.reason == (
            "ValueError: once() got evt_2, and the callback runs for evt_1"
        )

    def test_wrong_purpose(self, mailing: Deliver) -> None:
        """It is that of ``idempotency_key``."""
        module(mailing).after = lambda notif: once(notif, "").__enter__()
        delivery = mailing(TYPE)
        assert delivery.event is not None
        assert "Use 1 to 100 characters" in str(delivery.event.reason)

    @pytest.mark.processes
    @pytest.mark.parametrize("place", ["after", "before_end"])
    def test_forked_process(self, mailing: Deliver, tmp_path: Path, place: str) -> None:
        """A child may not begin an effect. One that was forked in the block records none."""
        said = tmp_path / "said"
        codes = []

        def fork(notif: Any) -> None:
            child = os.fork()
            if child:
                codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
                raise LookupError
            if place == "after":
                try:
                    once(notif, "mail").__enter__()
                except RuntimeError as error:
                    said.write_text(str(error), encoding="utf-8")

        setattr(module(mailing), place, fork)
        failed = mailing(TYPE)
        assert codes == [0]
        if place == "after":
            assert said.read_text(encoding="utf-8").endswith("in a process that a callback forked")
        else:
            assert effects(mailing, failed) == []
