"""A thread of ours that fails is reported and goes on."""

from __future__ import annotations

import threading
from typing import NoReturn

import pytest

from app.runtime import threads
from tests.support.waiting import wait_for


@pytest.fixture(autouse=True)
def _short_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits for a second."""
    monkeypatch.setattr(threads, "PAUSE_SECONDS", 0.01)


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), MemoryError()])
def test_failure_is_reported_and_the_work_begins_again(
    error: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    """The thread lives until its work returns, for any error that the work raises."""
    failures = [error, error]

    def work() -> None:
        if failures:
            raise failures.pop()

    thread = threads.start("test-thread", work)
    thread.join(30)

    assert not thread.is_alive()
    printed = capsys.readouterr()
    assert (printed.out + printed.err).count("thread_failed") == 2
    assert "test-thread" in printed.out + printed.err


def test_failure_to_report_does_not_end_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line may be lost when memory is short. The thread goes on."""
    calls: list[int] = []
    over = threading.Event()

    def fail(*_arguments: object, **_fields: object) -> NoReturn:
        raise MemoryError

    def work() -> None:
        calls.append(1)
        if not over.is_set():
            raise MemoryError

    # No test can take all memory away at just this moment.
    monkeypatch.setattr(threads.log, "exception", fail, raising=False)
    thread = threads.start("test-thread", work)
    wait_for(lambda: len(calls) > 2)
    over.set()
    thread.join(30)

    assert not thread.is_alive()
