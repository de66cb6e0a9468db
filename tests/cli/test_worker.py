"""``flask worker``: what it refuses. What it does is shown by tests/test_queue_processes.py."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import Receiver

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
    receiver.service.stopping.set()
    assert receiver.app.test_cli_runner().invoke(args=["worker"]).exit_code == 0
