"""Pairs, shadows and bursts in tests of teams: each takes one line."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import pytest
import stripe

from app.stripe_api.client import WriteRefused
from devkit.deliver import Deliver, MakeDeliver, RunHandler
from devkit.stripe_api import StripeApi
from tests.conftest import MakeHandlers

SNAPSHOT, THIN = "customer.created", "v1.customer.created"
ORDERS = pytest.mark.parametrize("first", [SNAPSHOT, THIN])

#: Greets a customer at Stripe, and mails.
GREETING = """
    import app

    events, mails = [], []

    def handle({name}, client):
        events.append({name})
        with app.once({name}, "mail") as first:
            if first:
                mails.append({name}.id)
        key = app.idempotency_key({name}, "greet")
        client.v1.customers.update("cus_1", {{"description": "new"}}, {{"idempotency_key": key}})
"""
PAIR = {
    "customer_created": GREETING.format(name="event"),
    "v1_customer_created": GREETING.format(name="notif"),
}
SHADOW = {**PAIR, "v1_customer_created": "    SHADOW = True\n" + GREETING.format(name="notif")}
FETCHING = "def handle(notif, client): notif.fetch_event()\n"


@pytest.fixture(autouse=True)
def _customer(stripe_api: StripeApi) -> None:
    """The customer whom the callbacks greet exists."""
    stripe_api.put("/v1/customers/cus_1", {"id": "cus_1", "object": "customer"})


def keys(api: StripeApi) -> list[str | None]:
    """Return the idempotency keys of all requests that change something."""
    return [each.idempotency_key for each in api.asked if each.method == "POST"]


def event(deliver: Deliver, event_type: str) -> Any:
    """Return the event that the callback of the type got."""
    (found,) = deliver.receiver.module(event_type.replace(".", "_")).events
    return found


class TestDeliver:
    """A pair goes through the whole service."""

    @pytest.fixture
    def deliver(self, make_deliver: MakeDeliver) -> Deliver:
        """``deliver`` for a service with a pair."""
        return make_deliver(modules=PAIR)

    def test_event_that_names_the_other_one(self, deliver: Deliver) -> None:
        """Its id is given by hand."""
        assert deliver(SNAPSHOT, event_id="evt_s").outcome == "handled"
        assert deliver(THIN, snapshot_event="evt_s").outcome == "twin"
        assert deliver(THIN, snapshot_event="evt_other").outcome == "handled"

    @ORDERS
    def test_both_orders(self, deliver: Deliver, first: str) -> None:
        """The given type comes first, and both are about one object of one account."""
        both = deliver.pair(first, account="acct_1", object_id="cus_2")
        assert [each.outcome for each in both] == ["handled", "twin"]
        assert both[0].body["type"] == first
        rows = [each.event for each in both if each.event]
        assert [each.context for each in rows] == ["acct_1", "acct_1"]
        assert [each.concurrency_key.split()[-1] for each in rows] == ["cus_2", "cus_2"]

    @ORDERS
    def test_keys_of_both(self, deliver: Deliver, stripe_api: StripeApi, first: str) -> None:
        """The first event fails at Stripe. The other one repeats its key, and no mail."""
        stripe_api.fail("/v1/customers/cus_1", status=402)
        both = deliver.pair(first)
        assert [each.outcome for each in both] == ["failed", "handled"]
        assert len(keys(stripe_api)) == 2
        assert len(set(keys(stripe_api))) == 1
        modules = [deliver.receiver.module(name) for name in PAIR]
        assert sum(len(each.mails) for each in modules) == 1

    def test_changes_are_in_both(self, make_deliver: MakeDeliver) -> None:
        """The snapshot event has what changed in ``previous_attributes``."""
        changes = {"before": {"name": None}, "after": {"name": "Jenny"}}
        deliver = make_deliver(modules=SHADOW)
        deliver.pair(SNAPSHOT, changes=changes)
        assert event(deliver, SNAPSHOT).data.previous_attributes.to_dict() == {"name": None}
        assert event(deliver, THIN).fetch_event().changes.to_dict() == changes

    @ORDERS
    def test_shadow(self, make_deliver: MakeDeliver, stripe_api: StripeApi, first: str) -> None:
        """Both run. The shadow sends no mail, and its request is not sent."""
        deliver = make_deliver(modules=SHADOW)
        outcomes = {each.body["type"]: each.outcome for each in deliver.pair(first)}
        assert outcomes == {SNAPSHOT: "handled", THIN: "shadow"}
        assert len(keys(stripe_api)) == 1
        assert deliver.receiver.module("v1_customer_created").mails == []

    @pytest.mark.parametrize("name", ["customer.source.created", "v1.thing.made"])
    def test_type_of_one_kind(self, deliver: Deliver, name: str) -> None:
        """A type without the other kind is refused, and so is one that does not exist."""
        with pytest.raises(ValueError, match=f"'{name}' is not one of a pair"):
            deliver.pair(name)

    def test_types_newer_than_the_sdk(self, make_deliver: MakeDeliver) -> None:
        """Their modules name them."""
        source = "EVENT_TYPE = '{}thing.made'\ndef handle({}, client): pass\n"
        modules = {"old": source.format("", "event"), "new": source.format("v1.", "notif")}
        deliver = make_deliver(modules=modules)
        assert [each.outcome for each in deliver.pair("v1.thing.made")] == ["handled", "twin"]


class TestQueue:
    """Events that workers run."""

    def test_burst_coalesces(self, make_deliver: MakeDeliver) -> None:
        """The newest event of the object runs, and the others are superseded."""
        modules = {"v1_customer_updated": "COALESCE = True\n" + FETCHING}
        deliver = make_deliver(modules=modules, processing="queue")
        events = deliver.burst("v1.customer.updated", 4)
        assert [each.outcome for each in events] == ["superseded"] * 3 + ["handled"]
        assert {each.concurrency_key.split()[-1] for each in events} == {"sample_of_all"}

    def test_burst_without_coalescing(self, make_deliver: MakeDeliver) -> None:
        """Each event runs."""
        modules = {"v1_customer_updated": FETCHING}
        deliver = make_deliver(modules=modules, processing="queue")
        events = deliver.burst("v1.customer.updated", object_id="cus_1")
        assert [each.outcome for each in events] == ["handled"] * 3

    def test_burst_in_inline_mode(self, make_deliver: MakeDeliver) -> None:
        """Policies have no effect there, so the test would show nothing."""
        deliver = make_deliver(modules={"v1_customer_updated": FETCHING})
        with pytest.raises(RuntimeError, match=r'make_deliver\(processing="queue"\)$'):
            deliver.burst("v1.customer.updated")

    @ORDERS
    def test_pair(self, make_deliver: MakeDeliver, first: str) -> None:
        """Both are accepted, and then one runs."""
        deliver = make_deliver(modules=PAIR, processing="queue")
        assert [each.outcome for each in deliver.pair(first)] == ["accepted", "accepted"]
        assert [each.outcome for each in deliver.run_due()] == ["handled", "twin"]
        assert deliver.run_due() == []

    def test_failing_events_run_until_they_are_dead(self, make_deliver: MakeDeliver) -> None:
        """``run_due`` ends with the state of each event, whatever its callback raises."""
        source = "import app\nMAX_ATTEMPTS = 3\ndef handle(notif, client): raise {}\n"
        modules = {
            "v1_customer_created": source.format("app.RetryLater(0)"),
            "v1_customer_updated": source.format("app.RetryLater(600)"),
        }
        deliver = make_deliver(modules=modules, processing="queue")
        for name in modules:
            deliver(name.replace("_", "."))
        found = {each.type: (each.outcome, each.attempt) for each in deliver.run_due()}
        assert found == {THIN: ("exhausted", 3), "v1.customer.updated": ("failed", 1)}


class TestRunHandler:
    """The callbacks of a pair alone."""

    @staticmethod
    def load(package: str) -> tuple[ModuleType, ModuleType]:
        """Return the snapshot module and the thin one."""
        snapshot, thin = (importlib.import_module(f"{package}.{name}") for name in PAIR)
        return snapshot, thin

    @ORDERS
    def test_keys_and_effects_are_shared(
        self,
        run_handler: RunHandler,
        make_handlers: MakeHandlers,
        stripe_api: StripeApi,
        first: str,
    ) -> None:
        """Both have the key of the snapshot event, and only the first one mails."""
        snapshot, thin = self.load(make_handlers(**PAIR))
        runs: list[tuple[ModuleType, dict[str, Any]]] = [
            (snapshot, {"event_id": "evt_s"}),
            (thin, {"snapshot_event": "evt_s"}),
        ]
        for module, more in runs if first == SNAPSHOT else reversed(runs):
            run_handler(module, **more)
        assert keys(stripe_api) == ["evt_s:greet"] * 2
        assert len(snapshot.mails + thin.mails) == 1

    def test_event_is_fetched_once(
        self, run_handler: RunHandler, make_handlers: MakeHandlers, stripe_api: StripeApi
    ) -> None:
        """As in the service, the fetch for the pair answers the one of the callback."""
        package = make_handlers(**{**PAIR, "v1_customer_created": FETCHING})
        run_handler(self.load(package)[1])
        assert len(stripe_api.asked) == 1

    def test_event_without_a_snapshot_event(
        self, run_handler: RunHandler, make_handlers: MakeHandlers, stripe_api: StripeApi
    ) -> None:
        """It has its own key."""
        notif = run_handler(self.load(make_handlers(**PAIR))[1])
        assert keys(stripe_api) == [f"{notif.id}:greet"]

    def test_module_without_the_other_kind(
        self, run_handler: RunHandler, make_handlers: MakeHandlers, stripe_api: StripeApi
    ) -> None:
        """Its event is not fetched, and has its own key."""
        package = make_handlers(v1_customer_created=PAIR["v1_customer_created"])
        module = importlib.import_module(f"{package}.v1_customer_created")
        notif = run_handler(module, snapshot_event="evt_s")
        assert [(each.method, each.idempotency_key) for each in stripe_api.asked] == [
            ("POST", f"{notif.id}:greet")
        ]

    def test_shadow_only_reads(
        self, run_handler: RunHandler, make_handlers: MakeHandlers, stripe_api: StripeApi
    ) -> None:
        """Its request is refused and its effect skipped, as in the service."""
        snapshot, thin = self.load(make_handlers(**SHADOW))
        run_handler(snapshot, event_id="evt_s")
        with pytest.raises(WriteRefused, match="POST /v1/customers/cus_1 was not sent"):
            run_handler(thin, snapshot_event="evt_s")
        assert (len(snapshot.mails), thin.mails) == (1, [])
        assert keys(stripe_api) == ["evt_s:greet"]

    def test_failed_fetch_reaches_the_test(
        self, run_handler: RunHandler, make_handlers: MakeHandlers, stripe_api: StripeApi
    ) -> None:
        """The service would try the event again."""
        stripe_api.fail(status=429)
        with pytest.raises(stripe.RateLimitError):
            run_handler(self.load(make_handlers(**PAIR))[1])
