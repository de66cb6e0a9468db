"""The counters of a process, for Prometheus and for the inbox."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import stripe
from prometheus_client.parser import text_string_to_metric_families

from app.inbox import Activity
from app.inbox.activity import WorkerThreads, period_of
from app.metrics import counts
from app.metrics.meter import OTHER
from app.states import Outcome, State
from app.web import startup
from devkit import samples
from devkit.deliver import MakeDeliver, Receiver
from devkit.stripe_api import StripeApi
from tests.support import pairs, raw_sql
from tests.support.waiting import wait_for

HANDLED = "v1.customer.created"
HOOK = "hook = None\ndef handle(notif, client): hook()\n"
MODULES = {"v1_customer_created": "def handle(notif, client): pass\n"}
MakeReceiver = Callable[..., Receiver]


@pytest.fixture
def receiver(make_receiver: MakeReceiver) -> Receiver:
    """An application with one handler module, which counts for Prometheus."""
    receiver = make_receiver(MODULES)
    receiver.services.meter.start()
    return receiver


def series(receiver: Receiver) -> dict[tuple[str, ...], float]:
    """Return the service's series: their names without the prefix, with labels, and values."""
    families = text_string_to_metric_families(receiver.services.meter.start().text().decode())
    return {
        (sample.name.removeprefix("stripe_receiver_"), *map(str, sample.labels.values())): (
            sample.value
        )
        for family in families
        for sample in family.samples
    }


def activities(receiver: Receiver) -> dict[tuple[str, str], int]:
    """Return the numbers in the inbox by kind and name."""
    receiver.services.meter.flush()
    return {
        (each.kind, each.name): each.number for each in receiver.services.inbox.activity.since(0)
    }


def test_end_of_a_process_keeps_its_counts(receiver: Receiver) -> None:
    """A stop writes the counts since the last flush."""
    receiver.deliver(samples.notification(HANDLED))
    startup._background(receiver.services, None).end()  # noqa: SLF001 - no other way without a server
    counted = receiver.services.inbox.activity.since(0)
    assert {each.kind for each in counted} == {"attempt", "delivery", "secret"}


def test_release_is_the_setting(make_receiver: MakeReceiver) -> None:
    """The build is that of the release which the service runs."""
    receiver = make_receiver(MODULES, release="41c9")
    assert [value for name, value in series(receiver).items() if "41c9" in name] == [1]


class TestDeliveries:
    """Each delivery is counted, with its outcome and its type."""

    def test_handled(self, receiver: Receiver) -> None:
        """A handled delivery counts under its type, its outcome and its secret."""
        receiver.deliver(samples.notification(HANDLED))
        found = series(receiver)
        assert found["deliveries_total", "handled", HANDLED] == 1
        assert found[("delivery_duration_seconds_count",)] == 1
        assert found["attempts_total", "handled", HANDLED] == 1
        assert found[("attempt_duration_seconds_count",)] == 1
        attempt, delivery = (
            found[(f"{name}_duration_seconds_sum",)] for name in ("attempt", "delivery")
        )
        assert 0 < attempt < delivery
        assert activities(receiver) == {
            ("attempt", "handled"): 1,
            ("delivery", "handled"): 1,
            ("secret", "1"): 1,
        }

    def test_second_secret(self, make_receiver: MakeReceiver) -> None:
        """A delivery counts under the position of the secret that signed it."""
        secrets = ("whsec_fake_first", "whsec_fake_second")
        receiver = make_receiver(MODULES, stripe_webhook_secrets=secrets)
        receiver.deliver(samples.notification(HANDLED), secret=secrets[1])
        assert activities(receiver)["secret", "2"] == 1

    def test_other_types_share_a_label(self, receiver: Receiver) -> None:
        """Types without a handler module count as one: Stripe has hundreds."""
        for event_type in ("v1.invoice.paid", "v1.charge.refunded"):
            receiver.deliver(samples.notification(event_type))
        assert series(receiver)["deliveries_total", "fallback", OTHER] == 2

    def test_failed(self, make_receiver: MakeReceiver) -> None:
        """A callback that raises counts as a failed attempt and a failed delivery."""
        receiver = make_receiver({"v1_customer_created": "def handle(notif, client): 1 / 0\n"})
        receiver.services.meter.start()
        receiver.deliver(samples.notification(HANDLED))
        found = series(receiver)
        assert found["deliveries_total", "failed", HANDLED] == 1
        assert found["attempts_total", "failed", HANDLED] == 1

    def test_twin(self, make_deliver: MakeDeliver, stripe_api: StripeApi) -> None:
        """A twin is done, and no callback ran for it."""
        deliver = make_deliver(modules=pairs.MODULES)
        deliver.receiver.services.meter.start()
        pairs.send_snapshot(deliver)
        pairs.send_thin(deliver, stripe_api)
        found = series(deliver.receiver)
        assert found["not_run_total", "twin", pairs.THIN] == 1
        assert found["attempts_total", "handled", pairs.SNAPSHOT] == 1
        assert ("attempts_total", "twin", pairs.THIN) not in found
        assert found[("attempt_duration_seconds_count",)] == 1
        assert activities(deliver.receiver)["attempt", "twin"] == 1

    def test_shadow(self, make_deliver: MakeDeliver, stripe_api: StripeApi) -> None:
        """The callback of a shadow runs, so it is an attempt, also if it raises."""
        deliver = make_deliver(modules=pairs.FAILING_SHADOW)
        deliver.receiver.services.meter.start()
        pairs.send_thin(deliver, stripe_api)
        assert series(deliver.receiver)["attempts_total", "shadow", pairs.THIN] == 1

    def test_superseded(self, make_receiver: MakeReceiver) -> None:
        """Each superseded event counts, under its type. The newest one is an attempt."""
        modules = {"v1_customer_created": f"COALESCE = True\n{MODULES['v1_customer_created']}"}
        receiver = make_receiver(modules, processing="queue")
        receiver.services.meter.start()
        for number in range(4):
            event_id = f"evt_{number}"
            receiver.deliver(samples.notification(HANDLED, event_id=event_id, object_id="cus_1"))
        receiver.services.worker.start(1)
        wait_for(lambda: receiver.event("evt_3").state == State.DONE)
        receiver.services.worker.join()
        found = series(receiver)
        assert found["not_run_total", "superseded", HANDLED] == 3
        assert found["attempts_total", "handled", HANDLED] == 1
        assert activities(receiver)["attempt", "superseded"] == 3

    def test_rejected(self, receiver: Receiver) -> None:
        """Each rejection counts under its reason, also when it has no line in the log any more."""
        for _ in range(12):
            receiver.post(b"{}", None)
        found = series(receiver)
        assert found["rejections_total", "signature_missing"] == 12
        assert found["deliveries_total", "refused", OTHER] == 12
        assert activities(receiver)["rejection", "signature_missing"] == 12

    def test_refused_by_the_bridge(self, receiver: Receiver) -> None:
        """Requests that are refused before they reach a route count too."""
        receiver.services.refusals.write("body_too_slow")
        assert series(receiver)["rejections_total", "body_too_slow"] == 1

    def test_not_started(self, make_receiver: MakeReceiver) -> None:
        """A process that serves no metrics counts for the inbox alone."""
        receiver = make_receiver(MODULES)
        receiver.deliver(samples.notification(HANDLED))
        receiver.post(b"{}", None)
        meter = receiver.services.meter
        meter.stripe_request("200")
        meter.rate_limit_wait(0.1)
        meter.lease_lost()
        meter.reconcile_missing(1)
        assert activities(receiver)["delivery", "handled"] == 1
        assert ("deliveries_total", "handled", HANDLED) not in series(receiver)


class TestOthers:
    """Everything else that is counted."""

    def test_parts_of_the_service(self, receiver: Receiver) -> None:
        """Requests to Stripe, waits, lost leases and missing events have their series."""
        meter = receiver.services.meter
        meter.stripe_request("429")
        meter.rate_limit_wait(0.3)
        meter.lease_lost()
        meter.reconcile_missing(3)
        found = series(receiver)
        assert found["stripe_requests_total", "429"] == 1
        assert found["rate_limit_wait_seconds_bucket", "0.25"] == 0
        assert found["rate_limit_wait_seconds_bucket", "0.5"] == 1
        assert found[("lease_losses_total",)] == 1
        assert found[("reconcile_missing_total",)] == 3

    def test_requests_to_stripe(self, make_receiver: MakeReceiver, stripe_api: StripeApi) -> None:
        """Each request counts by its status, and how long it waited for the rate limiter."""
        settings = {"stripe_api_base": stripe_api.url, "stripe_rate_limit": 1000}
        receiver = make_receiver(MODULES, **settings)
        receiver.services.meter.start()
        with pytest.raises(stripe.InvalidRequestError):
            receiver.services.client.v1.customers.retrieve("cus_none")
        found = series(receiver)
        assert found["stripe_requests_total", "404"] == 1
        assert found[("rate_limit_wait_seconds_count",)] == 1

    def test_no_answer_from_stripe(self, make_receiver: MakeReceiver) -> None:
        """A request without an answer has no status."""
        receiver = make_receiver(MODULES, stripe_api_base="http://127.0.0.1:9")
        receiver.services.meter.start()
        with pytest.raises(stripe.APIConnectionError):
            receiver.services.client.v1.customers.retrieve(
                "cus_none", options={"max_network_retries": 0}
            )
        assert series(receiver)["stripe_requests_total", "error"] == 1

    def test_lost_lease(self, make_receiver: MakeReceiver) -> None:
        """A claim that another attempt takes over while its callback runs counts."""
        receiver = make_receiver({"v1_customer_created": HOOK}, lease_seconds=1)
        receiver.services.meter.start()
        url = receiver.services.settings.database_url

        def lose_the_claim() -> None:
            raw_sql.execute(url, "UPDATE events SET claimed_by = 'another'")
            wait_for(lambda: series(receiver)[("lease_losses_total",)] == 1)

        receiver.module("v1_customer_created").hook = lose_the_claim
        assert receiver.deliver(samples.notification(HANDLED)).status_code == 409
        assert series(receiver)[("lease_losses_total",)] == 1

    def test_missing_event(self, make_receiver: MakeReceiver, stripe_api: StripeApi) -> None:
        """An event that reconciliation backfills counts."""
        receiver = make_receiver(MODULES, stripe_api_base=stripe_api.url)
        receiver.services.meter.start()
        created = datetime.now(UTC) - timedelta(hours=1)
        stripe_api.put_event(samples.event(samples.notification(HANDLED, created=created)))
        reconciler = receiver.services.reconciler
        reconciler.record(reconciler.find([]))
        assert series(receiver)[("reconcile_missing_total",)] == 1

    def test_worker_threads(self, receiver: Receiver) -> None:
        """The numbers of threads are those of the moment."""
        assert series(receiver)["worker_threads", "idle"] == 0
        receiver.services.worker.start(3)
        found = series(receiver)
        assert (found["worker_threads", "idle"], found["worker_threads", "busy"]) == (3, 0)


class TestFlush:
    """The counts reach the inbox every few seconds."""

    def test_each_count_once(self, receiver: Receiver) -> None:
        """A flush adds what was counted since the last one."""
        receiver.services.meter.rejection("signature_missing")
        assert activities(receiver) == {("rejection", "signature_missing"): 1}
        assert activities(receiver) == {("rejection", "signature_missing"): 1}

    def test_outage(self, make_receiver: MakeReceiver, tmp_path: Any) -> None:
        """While the inbox is away, the counts are kept."""
        (tmp_path / "file").touch()
        receiver = make_receiver(MODULES, database_url=f"sqlite:///{tmp_path}/file/inbox.sqlite3")
        meter = receiver.services.meter
        meter.rejection("signature_missing")
        meter.flush()
        meter.flush()
        (tmp_path / "file").unlink()
        assert activities(receiver) == {("rejection", "signature_missing"): 1}

    def test_worker_threads(self, make_receiver: MakeReceiver) -> None:
        """The inbox has the worker threads of each process until they end."""
        receiver = make_receiver(MODULES, processing="queue")
        services = receiver.services
        services.meter.flush()
        assert services.inbox.activity.threads().all == 0
        services.worker.start(3)
        services.meter.flush()
        services.meter.flush()
        assert services.inbox.activity.threads() == WorkerThreads(busy=0, idle=3)
        services.worker.join()
        services.meter.flush()
        assert services.inbox.activity.threads().all == 0
        services.meter.flush()

    def test_periods(self) -> None:
        """Counts of two periods stay apart, however late they are flushed."""
        kept = counts.Counts()
        now = time.time()
        early = Activity("delivery", "handled", period_of(now - 600), 2, now - 600)
        kept.put_back([early])
        kept.add("delivery", "handled")
        assert kept.take()[0] == early
        assert kept.take() == []

    def test_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A long outage does not fill the memory."""
        monkeypatch.setattr(counts, "MAX_COUNTERS", 2)  # no mock: a smaller bound
        kept = counts.Counts()
        for name in ("one", "two", "three", "one"):
            kept.add("rejection", name)
        assert {each.name: each.number for each in kept.take()} == {"one": 2, "two": 1}


def test_outcomes_are_words() -> None:
    """A label is the word of an outcome, as in the log."""
    kept = counts.Counts()
    kept.add("delivery", Outcome.HANDLED)
    (row,) = kept.take()
    assert type(row.name) is str
    assert row.name == "handled"
