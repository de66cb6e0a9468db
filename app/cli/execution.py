"""Set-up of a command that runs callbacks itself, as ``flask events retry`` does."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

import click

from app.cli.output import plural, say
from app.processing.leases import tick_seconds_of
from app.processing.rescuer import wait_for_orphans

if TYPE_CHECKING:
    from app.services import Services

#: Seconds between two checks for unrecorded results.
TICK_SECONDS = 0.05


def begin_execution(services: Services) -> None:
    """Record the release, start the watchdog and the leases, and find the orphans.

    If a lease has expired, this waits up to the grace: a live process renews it. The command ends
    only after all results are recorded. Raises ``InboxUnavailable``, and ``StartError`` if a
    handler module is broken.
    """
    _ = services.registry.modules
    services.inbox.groups.begin_release(services.settings.release)
    click.get_current_context().call_on_close(services.tracing.flush)
    click.get_current_context().call_on_close(partial(_finish, services))
    services.tracing.start()
    services.watchdog.start()
    services.leases.start()
    tick_seconds = tick_seconds_of(services.settings.lease_seconds)
    wait_for_orphans(services.inbox.rescue, tick_seconds, _say_expired)


def _finish(services: Services) -> None:
    """Wait until the inbox has all results: a callback that succeeded must not run again."""
    if services.deferred_results:
        say("The inbox is unavailable. Waiting until it can record the results ...", err=True)
    while services.deferred_results:
        time.sleep(TICK_SECONDS)
    services.meter.flush()


def _say_expired(count: int) -> None:
    which = "it" if count == 1 else "them"
    say(f"{plural(count, 'lease')} expired. Waiting for a process to renew {which} ...", err=True)
