"""The choice of a worker's CPU, and systems that cannot pin."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

import pytest

from app.runtime import cpu_affinity


@pytest.mark.parametrize(
    ("taken", "workers", "chosen"),
    [
        ([], 3, 4),
        ([4], 3, 5),
        ([4, 5], 3, 7),
        ([4, 7], 3, 5),  # the CPU of a killed worker
        ([None, None], 3, 4),
        ([4, 5, 7], 6, 4),
        ([4, 5, 7, 4], 6, 5),
        ([], 1, None),  # not the same number of workers on each CPU
        ([], 2, None),
        ([], 4, None),
    ],
)
def test_next_worker_gets_the_cpu_with_the_fewest_workers(
    monkeypatch: pytest.MonkeyPatch,
    taken: list[int | None],
    workers: int,
    chosen: int | None,
) -> None:
    """Workers are pinned only where each CPU gets the same number of them."""
    # A test cannot choose the CPUs of its machine.
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {7, 4, 5}, raising=False)

    assert cpu_affinity.choose(taken, workers) == chosen


def test_no_cpu_is_chosen_on_other_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not every operating system can pin a thread."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)

    assert cpu_affinity.choose([], 2) is None


def refuse(_pid: int, _cpus: set[int]) -> NoReturn:
    """Fail like the system call in a sandbox."""
    raise PermissionError(1, "Operation not permitted")


def test_refused_pin_is_logged(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a sandbox that forbids it, the worker serves without being pinned."""
    # Only a sandbox refuses the call.
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0}, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", refuse, raising=False)

    cpu_affinity.pin(0, 1)

    written = "".join(capsys.readouterr())
    assert "worker_not_pinned" in written
    assert "Operation not permitted" in written


@pytest.mark.parametrize(
    ("cpus", "workers", "reason"),
    [
        ({4, 5}, 3, "3 workers on 2 CPUs"),
        ({4, 5}, 1, "1 worker on 2 CPUs"),
        (None, 3, "this system cannot pin"),
    ],
)
def test_missing_choice_is_logged(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    cpus: set[int] | None,
    workers: int,
    reason: str,
) -> None:
    """A worker without a CPU of its own says why it is not pinned."""
    # A test cannot choose the CPUs of its machine.
    if cpus is None:
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    else:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: cpus, raising=False)

    cpu_affinity.pin(None, workers)

    written = "".join(capsys.readouterr())
    assert "worker_not_pinned" in written
    assert reason in written


# macOS cannot pin threads: `choose` then returns None, and no hook is added.
@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system cannot pin")
@pytest.mark.parametrize(("event", "is_start"), [("subprocess.Popen", True), ("open", False)])
def test_thread_is_released_before_it_starts_a_program(event: str, *, is_start: bool) -> None:
    """Only the start of a process gives the calling thread all CPUs.

    Process tests show that the hook works. Here it is called, because Python traces no audit hook.
    """
    given = os.sched_getaffinity(0)
    first = {min(given)}

    def run() -> set[int]:
        os.sched_setaffinity(0, first)
        cpu_affinity.release_before_start(given, event, ())
        return os.sched_getaffinity(0)

    with ThreadPoolExecutor(1) as pool:  # the thread of the test is not pinned
        assert pool.submit(run).result() == (given if is_start else first)


def test_refused_release_does_not_stop_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception in an audit hook would make the start of the program fail."""
    # Only a sandbox refuses the call.
    monkeypatch.setattr(os, "sched_setaffinity", refuse, raising=False)

    cpu_affinity.release_before_start({0}, "subprocess.Popen", ())
