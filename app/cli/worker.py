"""``flask worker``: a process that runs events and answers no requests."""

from __future__ import annotations

import os
import re
import signal
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import click
import structlog
from flask.cli import with_appcontext

from app.cli.events.filters import UNITS
from app.cli.events.reconcile import read_accounts
from app.errors import Unavailable
from app.runtime import forks, threads
from app.services import services

if TYPE_CHECKING:
    from types import FrameType

    from app.services import Services

log = structlog.get_logger(__name__)

#: Seconds between two looks whether all has ended.
TICK_SECONDS = 0.05

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def read_interval(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> float | None:
    """Return the seconds of ``15m``."""
    if value is None:
        return None
    given = re.fullmatch(r"([1-9][0-9]{0,8})([smhd])", value)
    if given is None:
        raise click.BadParameter(f"{value!r} is no time like 30s, 15m or 1h")
    return float(given[1]) * UNITS[given[2]]


@click.command("worker")
@click.option("--threads", type=click.IntRange(min=1), help="[default: WORKER_THREADS]")
@click.option(
    "--grace",
    default=24.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Seconds that running callbacks get after SIGTERM.",
)
@click.option(
    "--reconcile-every",
    "interval",
    callback=read_interval,
    metavar="TIME",
    help="Bring back what Stripe could not deliver, so often: 15m, 1h.",
)
@click.option(
    "--account",
    "accounts",
    multiple=True,
    callback=read_accounts,
    metavar="ACCT",
    help="With --reconcile-every, a connected account. May be given several times.",
)
@with_appcontext
def worker(
    threads: int | None, grace: float, interval: float | None, accounts: tuple[str, ...]
) -> None:
    """Run events as they become due, until SIGTERM.

    For PROCESSING=queue. Any number of such processes can run beside each other, and beside the
    ones that answer requests, which get WORKER_THREADS=0 then. Of all that are told to reconcile,
    one at a time does it.
    """
    parts = services()
    if not parts.settings.is_queue:
        raise click.ClickException(
            "PROCESSING is inline: callbacks run in the requests, and a worker has nothing to do."
            " Set PROCESSING=queue, here and for the service that answers requests."
        )
    count = threads or parts.settings.worker_threads
    if count == 0:
        raise click.UsageError("WORKER_THREADS is 0. Say how many with --threads.")
    stop_signals = _open_stop_signals()
    _migrate(parts)
    parts.leases.watchdog.start()
    parts.worker.start(count)
    if interval is not None:
        _reconcile(parts, interval, accounts)
    log.info("worker_started", threads=count, inbox=parts.inbox.address)
    os.read(stop_signals, 1)
    _end(parts, grace)


def _reconcile(parts: Services, interval: float, accounts: tuple[str, ...]) -> None:
    """Reconcile in a thread of its own, which may be ended at any moment."""
    run_every = parts.reconciler.run_every
    threads.start("reconciler", partial(run_every, interval, parts.stopping, accounts))


def _open_stop_signals() -> int:
    """Handle the stop signals. Returns a descriptor that gets one byte for each of them.

    A handler runs in the main thread, which may hold any lock at that moment. So the handler takes
    no lock: ``threading.Event.set`` would deadlock if it interrupted ``wait`` on the same event.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def note(_number: int, _frame: FrameType | None) -> None:
        with suppress(BlockingIOError):  # the pipe is full of signals
            os.write(writing, b"\0")

    for number in STOP_SIGNALS:
        signal.signal(number, note)
    forks.isolate(STOP_SIGNALS)  # a forked process has the pipe, but not the handler
    return reading


def _migrate(parts: Services) -> None:
    try:
        parts.inbox.migrate()
    except Unavailable as error:  # it is tried again at the first claim
        log.warning("inbox_unavailable_at_start", reason=error.reason)


def _end(parts: Services, grace: float) -> None:
    """Let what runs end, give the rest back, and leave."""
    parts.worker.stop()
    deadline = time.monotonic() + grace
    while (parts.worker.unfinished or parts.leases.unsettled) and time.monotonic() < deadline:
        time.sleep(TICK_SECONDS)
    running = parts.worker.running
    log.info("worker_ended", running=running)
    if running:
        parts.worker.release()
        os._exit(0)  # a callback's thread cannot be ended, and a normal exit may wait for it
