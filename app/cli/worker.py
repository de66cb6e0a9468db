"""``flask worker``: a process that runs events and answers no requests."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import click
import structlog
from flask.cli import with_appcontext

from app.errors import Unavailable
from app.service import service

if TYPE_CHECKING:
    from types import FrameType

    from app.service import Service

log = structlog.get_logger(__name__)

#: Seconds between two looks whether all has ended.
TICK_SECONDS = 0.05


@click.command("worker")
@click.option("--threads", type=click.IntRange(min=1), help="[default: WORKER_THREADS]")
@click.option(
    "--grace",
    default=24.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Seconds that running callbacks get after SIGTERM.",
)
@with_appcontext
def worker(threads: int | None, grace: float) -> None:
    """Run events as they become due, until SIGTERM.

    For PROCESSING=queue. Any number of such processes can run beside each other, and beside the
    ones that answer requests, which get WORKER_THREADS=0 then.
    """
    parts = service()
    if not parts.settings.is_queue:
        raise click.ClickException(
            "PROCESSING is inline: callbacks run in the requests, and a worker has nothing to do."
            " Set PROCESSING=queue, here and for the service that answers requests."
        )
    count = threads or parts.settings.worker_threads
    if count == 0:
        raise click.UsageError("WORKER_THREADS is 0. Say how many with --threads.")
    _stop_on_signals(parts)
    _migrate(parts)
    parts.worker.start(count)
    log.info("worker_started", threads=count, inbox=parts.inbox.address)
    parts.stopping.wait()
    _end(parts, grace)


def _stop_on_signals(parts: Service) -> None:
    def stop(_number: int, _frame: FrameType | None) -> None:
        parts.stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)


def _migrate(parts: Service) -> None:
    try:
        parts.inbox.migrate()
    except Unavailable as error:  # it is tried again at the first claim
        log.warning("inbox_unavailable_at_start", reason=error.reason)


def _end(parts: Service, grace: float) -> None:
    """Let what runs end, give the rest back, and leave."""
    parts.worker.stop()
    deadline = time.monotonic() + grace
    while (parts.worker.running or parts.leases.unsettled) and time.monotonic() < deadline:
        time.sleep(TICK_SECONDS)
    running = parts.worker.running
    if running:
        parts.worker.release()
    log.info("worker_ended", running=running)
    if running:
        os._exit(0)  # a callback's thread cannot be ended, and a normal exit may wait for it
