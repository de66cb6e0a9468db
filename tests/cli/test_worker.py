"""``flask worker``: options, signals, reconciliation.

tests/processes/test_queue.py tests how it runs events.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from app.inbox import Claim, Inbox, NewEvent
from app.inbox.claims import Claims
from app.inbox.engine.file_lock import FileLock
from devkit import samples
from devkit.stripe_api import StripeApi
from tests.conftest import API_KEY, SECRET, MakeHandlers, Receiver
from tests.support.waiting import wait_for

Make = Callable[..., Receiver]

ROOT = Path(__file__).resolve().parents[2]

#: Runs ``flask``. SIGTERM comes each time that the main thread waits for an event, and finds the
#: lock of the event held. It comes only when the command handles it.
SIGNAL_WHILE_LOCKED = """
import signal
import threading

from flask.cli import main

wait = threading.Event.wait


def interrupted_wait(self, timeout=None):
    handler = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is threading.main_thread() and (
        getattr(handler, "__module__", None) == "app.cli.worker"
    ):
        with self._cond:
            signal.raise_signal(signal.SIGTERM)
    return wait(self, timeout)


threading.Event.wait = interrupted_wait
main()
"""


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """The signal handlers of the command are removed after the test."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    signal.set_wakeup_fd(-1)
    for number, handler in before.items():
        signal.signal(number, handler)


def test_inline_mode_has_nothing_to_do(receiver: Receiver) -> None:
    """In inline mode the error names the setting to change, for both processes."""
    refused = receiver.app.test_cli_runner().invoke(args=["worker"])
    assert refused.exit_code == 1
    assert "Set PROCESSING=queue, here and for the service" in refused.stderr


def test_no_threads_are_refused(make_receiver: Make) -> None:
    """WORKER_THREADS=0 is for processes that answer requests: a worker needs threads."""
    receiver = make_receiver(processing="queue", worker_threads=0)
    refused = receiver.app.test_cli_runner().invoke(args=["worker"])
    assert refused.exit_code == 2
    assert "WORKER_THREADS is 0. Set the number of threads with --threads." in refused.stderr


@pytest.mark.processes
@pytest.mark.measured
def test_signal_that_finds_a_lock_held_stops_it(
    tmp_path: Path, make_handlers: MakeHandlers
) -> None:
    """A signal ends the worker in good order, whatever lock the main thread holds.

    Before, it has named a misspelt setting, and the API if that is not Stripe's own.
    """
    done = subprocess.run(
        [sys.executable, "-c", SIGNAL_WHILE_LOCKED, "worker"],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path / "packages")]),
            "STRIPE_API_KEY": API_KEY,
            "STRIPE_WEBHOOK_SECRET": SECRET,
            "DATABASE_URL": f"sqlite:///{tmp_path}/inbox.sqlite3",
            "HANDLERS_PACKAGE": make_handlers(),
            "PROCESSING": "queue",
            "WORKER_THREAD": "4",
            "STRIPE_API_BASE": "http://127.0.0.1:9",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "worker_ended" in done.stderr
    assert '"stripe_api": "http://127.0.0.1:9"' in done.stderr
    assert '"variable": "WORKER_THREAD", "nearest": "WORKER_THREADS"' in done.stderr


def test_signal_during_the_start_stops_it(make_receiver: Make) -> None:
    """After a signal that comes while the worker waits for its inbox, it claims no event."""
    receiver = make_receiver(processing="queue")
    url = receiver.services.settings.database_url
    event = NewEvent("evt_1", "v1.customer.created", livemode=False, context=None, body=b"{}")
    with closing(Inbox(url, lease_seconds=30)) as inbox:
        inbox.deliveries.enqueue(event)
    before = signal.getsignal(signal.SIGTERM)
    lock = FileLock(Path(f"{sa.make_url(url).database}.lock"))

    def stop_and_go_on() -> None:
        try:
            wait_for(lambda: signal.getsignal(signal.SIGTERM) is not before)
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            lock.close()

    with lock, ThreadPoolExecutor(1) as pool:
        going_on = pool.submit(stop_and_go_on)
        ended = receiver.app.test_cli_runner().invoke(args=["worker"])
        going_on.result()

    assert ended.exit_code == 0
    assert receiver.event("evt_1").attempt == 0


def test_claim_in_progress_is_released_at_the_deadline(
    make_receiver: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A claim that is being made when the grace period ends does not keep its event until later."""
    receiver = make_receiver(processing="queue")
    worker, inbox = receiver.services.worker, receiver.services.inbox
    inbox.migrate()
    receiver.deliver(samples.notification("v1.customer.created", event_id="evt_1"))
    claim_due = Claims.claim_due

    def claim_late(self: Claims, *, livemode: bool) -> Claim | None:
        os.kill(os.getpid(), signal.SIGTERM)
        wait_for(lambda: worker._is_releasing)  # noqa: SLF001 - nothing else tells
        return claim_due(self, livemode=livemode)

    # A test cannot choose the moment at which a real database answers, nor end its own process.
    monkeypatch.setattr(Claims, "claim_due", claim_late)
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)

    receiver.app.test_cli_runner().invoke(args=["worker", "--threads", "1", "--grace", "0"])

    assert ended == [0]
    event = receiver.event("evt_1")
    assert (event.state, event.outcome) == ("pending", "released")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    (line,) = [each for each in lines if each["event"] == "stopped_unfinished"]
    assert (line["events"], line["unrecorded"]) == (1, 0)


@pytest.mark.parametrize("interval", ["15", "0m", "soon", "-1s"])
def test_invalid_interval(make_receiver: Make, interval: str) -> None:
    """An invalid interval is refused before anything starts."""
    receiver = make_receiver(processing="queue")
    refused = receiver.app.test_cli_runner().invoke(args=["worker", "--reconcile-every", interval])
    assert refused.exit_code == 2
    assert f"'{interval}' is no interval like 30s, 15m or 1h" in refused.stderr


def test_other_signals_do_not_stop_it(make_receiver: Make) -> None:
    """A signal that a handler module handles leaves the worker running."""
    receiver = make_receiver(processing="queue")
    receiver.services.inbox.migrate()
    before = signal.signal(signal.SIGUSR1, lambda *_: None)

    def is_handled(event_id: str) -> bool:
        receiver.deliver(samples.notification("v1.customer.created", event_id=event_id))
        wait_for(lambda: receiver.event(event_id).state == "done")
        return True

    def signal_twice() -> bool:
        try:
            is_handled("evt_1")
            os.kill(os.getpid(), signal.SIGUSR1)
            return is_handled("evt_2")
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    with ThreadPoolExecutor(1) as pool:
        handled = pool.submit(signal_twice)
        ended = receiver.app.test_cli_runner().invoke(args=["worker"])
    signal.signal(signal.SIGUSR1, before)
    assert (handled.result(), ended.exit_code) == (True, 0)


def test_it_reconciles(make_receiver: Make, stripe_api: StripeApi) -> None:
    """With --reconcile-every the worker backfills and runs events of the given accounts."""
    modules = {"v1_customer_created": "def handle(notif, client): pass\n"}
    receiver = make_receiver(modules, processing="queue", stripe_api_base=stripe_api.url)
    created = datetime.now(UTC) - timedelta(hours=1)
    notification = samples.notification(
        "v1.customer.created", event_id="evt_1", created=created, context="acct_1"
    )
    stripe_api.put_event(samples.event(notification))
    inbox = receiver.services.inbox

    def stop_when_done() -> None:
        try:
            wait_for(
                lambda: (event := inbox.administration.find("evt_1")) and event.state == "done"
            )
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    inbox.migrate()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(stop_when_done)
        options = ["--reconcile-every", "15m", "--account", "acct_1"]
        ended = receiver.app.test_cli_runner().invoke(args=["worker", *options])
        waiting.result()
    assert ended.exit_code == 0
    assert receiver.event("evt_1").source == "reconcile"
