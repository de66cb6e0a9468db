"""CPU affinity: each worker process on one CPU (``WORKER_CPU_AFFINITY=auto``).

The threads of a process pass the GIL to each other several times a delivery. On one CPU that is
cheaper than between two. docs/adr/0004-cpu-affinity.md has the measurements and the limits.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from functools import partial

import structlog

log = structlog.get_logger(__name__)

#: The audit events that precede the start of a process:
#: https://docs.python.org/3/library/audit_events.html
STARTS = frozenset(
    {
        "os.exec",
        "os.fork",
        "os.forkpty",
        "os.posix_spawn",
        "os.spawn",
        "os.system",
        "subprocess.Popen",
    }
)


def choose(taken: Iterable[int | None], workers: int) -> int | None:
    """Return the CPU of the next worker, or None if it may use all.

    ``taken`` are the CPUs of the running workers, ``workers`` is their configured number. Workers
    are pinned only if each CPU gets the same number of them. Otherwise the scheduler of the system
    distributes them better.
    """
    usable = _usable()
    if not usable or workers % len(usable):
        return None
    load = Counter(taken)
    return min(usable, key=lambda cpu: load[cpu])


def pin(cpu: int | None, workers: int) -> None:
    """Pin the calling thread to ``cpu``, and each thread that it starts. Log the result.

    ``cpu`` is the choice of ``choose`` for this number of ``workers``.

    A program that a thread starts gets the CPUs that the service was given. The thread gets them
    back as well, and keeps them. An exception is ``multiprocessing`` with ``spawn`` or
    ``forkserver``: these processes are pinned. Does not raise.
    """
    if cpu is None:
        log.info("worker_not_pinned", reason=_reason(workers))
        return
    given = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {cpu})
    except OSError as error:  # some sandboxes forbid it
        log.warning("worker_not_pinned", reason=str(error))
        return
    sys.addaudithook(partial(release_before_start, given))
    log.info("worker_pinned", cpu=cpu)


def _usable() -> list[int]:
    """Return the CPUs that this process may use. Empty where the system cannot pin."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def _reason(workers: int) -> str:
    """Return why ``choose`` returned no CPU."""
    usable = _usable()
    if not usable:
        return "this system cannot pin"
    return f"{workers} {'worker' if workers == 1 else 'workers'} on {len(usable)} CPUs"


def release_before_start(given: set[int], event: str, _arguments: object) -> None:
    """Let the calling thread use all CPUs of ``given`` if the audit ``event`` starts a process.

    ``subprocess`` and ``os.posix_spawn`` do not run the hooks of ``os.register_at_fork``.
    """
    if event in STARTS:
        with suppress(OSError):  # the start of the program must not fail
            os.sched_setaffinity(0, given)
