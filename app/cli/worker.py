"""``flask worker``: a process that runs events and answers no requests."""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from functools import partial
from typing import TYPE_CHECKING

import click
import structlog
from flask.cli import with_appcontext

from app import start_warnings
from app.cli.events.filters import accounts_option, read_interval
from app.errors import InboxUnavailable
from app.log import output
from app.runtime import forks, shutdown
from app.runtime.threads import start as start_thread
from app.services import services

if TYPE_CHECKING:
    from types import FrameType

    from app.services import Services

log = structlog.get_logger(__name__)

#: Seconds between two checks for running callbacks and unrecorded results.
TICK_SECONDS = 0.05

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


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
    metavar="INTERVAL",
    help="Backfill events that Stripe could not deliver, at this interval: 15m, 1h.",
)
@accounts_option("A connected account for --reconcile-every.")
@click.option(
    "--metrics-port",
    type=click.IntRange(1, 65535),
    help="Serve the metrics of this process on this port of BIND_HOST, without a token."
    " [default host: 127.0.0.1]",
)
@with_appcontext
def worker(
    threads: int | None,
    grace: float,
    interval: float | None,
    accounts: tuple[str, ...],
    metrics_port: int | None,
) -> None:
    """Run events when they are due, until SIGTERM.

    For PROCESSING=queue. Start any number of workers, beside processes that answer requests. Set
    WORKER_THREADS=0 for the latter. Of all workers with --reconcile-every, one at a time
    reconciles.
    """
    settings = services().settings
    if not settings.is_queue:
        raise click.ClickException(
            "PROCESSING is inline: callbacks run in the requests, and a worker has nothing to do."
            " Set PROCESSING=queue, here and for the service that answers requests."
        )
    count = threads or settings.worker_threads
    if count == 0:
        raise click.UsageError("WORKER_THREADS is 0. Set the number of threads with --threads.")
    start_warnings.warn(settings, services().registry)
    _ = services().registry.modules  # raises the problems of a broken handler module
    listeners = [_serve_metrics(services(), metrics_port)] if metrics_port else []
    stop_signals = _open_stop_signals(listeners)
    _migrate(services())
    # A migration can wait a minute for others. After a stop signal no event may be claimed.
    if not select.select([stop_signals], [], [], 0)[0]:
        _start(services(), count, interval, accounts)
    _wait_for_stop(stop_signals)
    _stop(services(), grace)


def _migrate(services: Services) -> None:
    try:
        services.inbox.migrate()
    except InboxUnavailable as error:  # the first claim tries it again
        log.warning("inbox_unavailable_at_start", reason=error.reason)


def _start(
    services: Services, threads: int, interval: float | None, accounts: tuple[str, ...]
) -> None:
    services.tracing.start()
    services.watchdog.start()
    services.worker.start(threads)
    services.maintenance.start()
    if interval is not None:
        # A thread of its own, which the end of the process may interrupt at any moment.
        reconcile = partial(services.reconciler.run_every, interval, services.stopping, accounts)
        start_thread("reconciler", reconcile)
    api = services.settings.stripe_api_base
    log.info("worker_started", threads=threads, inbox=services.inbox.address, stripe_api=api)


def _serve_metrics(services: Services, port: int) -> socket.socket:
    """Serve the metrics in threads of the library of Prometheus. Returns the listening socket.

    Raises ``StartError`` if the port cannot be opened.
    """
    from app.web import metrics_server  # noqa: PLC0415 - loads the library

    host = services.settings.bind_host or metrics_server.HOST
    return metrics_server.serve(services.meter.start(), host, port)


def _open_stop_signals(listeners: list[socket.socket]) -> int:
    """Handle the stop signals. Returns a descriptor that gets the number of each one, as a byte.

    A process that a callback forks keeps none of the ``listeners``.

    The C handler of the interpreter writes it. A handler in Python runs in the main thread, which
    may hold any lock at that moment, and only after its system call has returned. A signal right
    before a blocking ``read`` would be lost.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in STOP_SIGNALS:
        signal.signal(number, _do_nothing)
    # A forked process has its own signals.
    forks.isolate(STOP_SIGNALS, listeners, reopen_log=output.take)
    return reading


def _do_nothing(_number: int, _frame: FrameType | None) -> None:
    """Replace the default effect of a signal."""


def _wait_for_stop(stop_signals: int) -> None:
    """Wait for a stop signal. A handler module can handle other signals, which are skipped."""
    while os.read(stop_signals, 1)[0] not in STOP_SIGNALS:
        pass


def _stop(services: Services, grace: float) -> None:
    """Wait up to ``grace`` seconds for running callbacks, then release their events and exit."""
    for _ in shutdown.begin(services.worker.stop, services.unfinished, grace):
        time.sleep(TICK_SECONDS)
    log.info("worker_ended")
    shutdown.end(services.unfinished, services.worker.release)
    services.meter.flush()
    services.tracing.flush()
