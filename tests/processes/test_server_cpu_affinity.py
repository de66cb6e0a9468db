"""Which CPUs the worker processes and the programs that callbacks start may use."""

from __future__ import annotations

import contextlib
import os
import signal

import pytest

from tests.support.gunicorn_server import DEADLINE, Serve, Server
from tests.support.waiting import wait_for

if not hasattr(os, "sched_getaffinity"):
    pytest.skip("the system does not pin threads to CPUs", allow_module_level=True)

USABLE = sorted(os.sched_getaffinity(0))
WORKERS = ("--workers", str(len(USABLE)))


def places(server: Server) -> list[list[int]]:
    """Return the CPUs of each worker's main thread."""
    return sorted(sorted(os.sched_getaffinity(pid)) for pid in server.workers)


def pinned(server: Server) -> list[int]:
    """Return the CPUs that the log says workers were pinned to."""
    return sorted(line["cpu"] for line in server.logged("worker_pinned"))


def test_workers_are_not_pinned_with_off(serve: Serve) -> None:
    """With ``off`` each worker may use all CPUs."""
    server = serve(*WORKERS, WORKER_CPU_AFFINITY="off")

    wait_for(lambda: server.log.count("Booting worker") == len(USABLE), DEADLINE)
    assert server.deliver() == 200
    assert places(server) == [USABLE] * len(USABLE)
    assert "worker_pinned" not in server.log


def test_each_worker_is_pinned_to_its_own_cpu(serve: Serve) -> None:
    """By default, with one worker per CPU. A replaced worker gets the CPU of the killed one."""
    server = serve(*WORKERS)

    def is_spread() -> bool:
        with contextlib.suppress(ProcessLookupError):
            return places(server) == [[cpu] for cpu in USABLE]
        return False

    wait_for(is_spread, DEADLINE)
    wait_for(lambda: pinned(server) == USABLE, DEADLINE)
    killed = server.workers[-1]
    (cpu,) = os.sched_getaffinity(killed)
    os.kill(killed, signal.SIGKILL)
    wait_for(lambda: killed not in server.workers and is_spread(), DEADLINE)
    wait_for(lambda: pinned(server) == sorted([*USABLE, cpu]), DEADLINE)


def test_uneven_number_of_workers_is_not_pinned(serve: Serve) -> None:
    """A number of workers that is no multiple of the CPUs is not pinned. The log says so."""
    server = serve("--workers", str(len(USABLE) + 1))

    if len(USABLE) > 1:  # each number of workers is a multiple of one CPU
        wait_for(lambda: len(server.logged("worker_not_pinned")) == len(USABLE) + 1, DEADLINE)
        assert places(server) == [USABLE] * (len(USABLE) + 1)


@pytest.mark.parametrize("how", ["subprocess", "posix_spawn", "system", "fork"])
def test_program_of_a_callback_may_use_all_cpus(serve: Serve, how: str) -> None:
    """A process that a callback starts may use all CPUs of the service."""
    server = serve(*WORKERS, threads=1)

    seen = server.ask("POST", f"/start/{how}").json

    assert len(seen["thread"]) == 1
    assert seen["program"] == USABLE


@pytest.mark.parametrize("how", ["thread", "spawn", "forkserver"])
def test_limit_of_unpinned_programs(serve: Serve, how: str) -> None:
    """A thread is pinned. So is a process of ``multiprocessing``, which has no audit event."""
    server = serve(*WORKERS, threads=1)

    seen = server.ask("POST", f"/start/{how}").json

    assert seen["program"] == seen["thread"]
