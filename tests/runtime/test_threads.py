"""A thread whose work raises logs that and continues."""

from __future__ import annotations

import threading
from typing import NoReturn

import pytest

from app.runtime import threads
from tests.support.waiting import wait_for


@pytest.fixture(autouse=True)
def _short_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the pause too short to wait for."""
    monkeypatch.setattr(threads, "PAUSE_SECONDS", 0.01)


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), MemoryError()])
def test_error_is_logged_and_the_work_is_repeated(
    error: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    """For any error, the work is called again until it returns."""
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


def test_failure_to_log_does_not_end_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """When memory is short, a line may be lost. The thread continues."""
    calls: list[int] = []
    over = threading.Event()

    def fail(*_arguments: object, **_fields: object) -> NoReturn:
        raise MemoryError

    def work() -> None:
        calls.append(1)
        if not over.is_set():
            raise MemoryError

    # A test cannot exhaust all memory at this moment.
    monkeypatch.setattr(threads.log, "exception", fail, raising=False)
    thread = threads.start("test-thread", work)
    wait_for(lambda: len(calls) > 2)
    over.set()
    thread.join(30)

    assert not thread.is_alive()
