"""``flask worker``: what it refuses. What it does is shown by tests/processes/test_queue.py."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from devkit import samples
from devkit.stripe_api import StripeApi
from tests.conftest import Receiver
from tests.support.waiting import wait_for

Make = Callable[..., Receiver]


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """The command handles signals, which other tests do not expect."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_inline_mode_has_nothing_to_do(receiver: Receiver) -> None:
    """It says which setting to change, for both sides."""
    refused = receiver.app.test_cli_runner().invoke(args=["worker"])
    assert refused.exit_code == 1
    assert "Set PROCESSING=queue, here and for the service" in refused.stderr


def test_no_threads_are_refused(make_receiver: Make) -> None:
    """WORKER_THREADS=0 is meant for the web side."""
    receiver = make_receiver(processing="queue", worker_threads=0)
    refused = receiver.app.test_cli_runner().invoke(args=["worker"])
    assert refused.exit_code == 2
    assert "WORKER_THREADS is 0. Say how many with --threads." in refused.stderr


def test_it_runs_until_it_is_told_to_stop(make_receiver: Make) -> None:
    """A stop that came before it began ends it at once, in good order."""
    receiver = make_receiver(processing="queue")
    receiver.services.stopping.set()
    assert receiver.app.test_cli_runner().invoke(args=["worker"]).exit_code == 0


@pytest.mark.parametrize("interval", ["15", "0m", "soon", "-1s"])
def test_interval_is_a_time(make_receiver: Make, interval: str) -> None:
    """What is no time is refused before anything starts."""
    receiver = make_receiver(processing="queue")
    refused = receiver.app.test_cli_runner().invoke(args=["worker", "--reconcile-every", interval])
    assert refused.exit_code == 2
    assert f"'{interval}' is no time like 30s, 15m or 1h" in refused.stderr


def test_it_reconciles(make_receiver: Make, stripe_api: StripeApi) -> None:
    """What Stripe could not deliver is brought back and run, of the accounts that are given."""
    modules = {"v1_customer_created": "def handle(notif, client): pass\n"}
    receiver = make_receiver(modules, processing="queue", stripe_api_base=stripe_api.url)
    created = datetime.now(UTC) - timedelta(hours=1)
    notification = samples.notification(
        "v1.customer.created", event_id="evt_1", created=created, context="acct_1"
    )
    stripe_api.put_event(samples.event(notification))
    inbox = receiver.services.inbox

    def stop_when_it_is_done() -> None:
        try:
            wait_for(
                lambda: (event := inbox.administration.find("evt_1")) and event.state == "done"
            )
        finally:
            receiver.services.stopping.set()

    inbox.migrate()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(stop_when_it_is_done)
        options = ["--reconcile-every", "15m", "--account", "acct_1"]
        ended = receiver.app.test_cli_runner().invoke(args=["worker", *options])
        waiting.result()
    assert ended.exit_code == 0
    assert receiver.event("evt_1").source == "reconcile"
