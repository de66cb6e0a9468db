"""The set-up of a command that runs callbacks itself."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

import click

from app.cli.output import say

if TYPE_CHECKING:
    from app.services import Services

#: Seconds between two looks whether all results are recorded.
TICK_SECONDS = 0.05


def begin_running(parts: Services) -> None:
    """Start the watchdog and the leases, and decide which running events are orphans.

    When a lease ran out, this waits up to its grace: a live process renews it. The command ends
    only when all results are recorded. Raises ``InboxUnavailable``.
    """
    click.get_current_context().call_on_close(partial(_wait_for_results, parts))
    parts.leases.watchdog.start()
    parts.leases.start()
    parts.leases.decide_suspects(_say)


def _wait_for_results(parts: Services) -> None:
    """Wait for the inbox to take what callbacks came to: one that succeeded must not run again."""
    if parts.leases.unrecorded:
        say("The inbox is away. Waiting until it can record the results ...", err=True)
    while parts.leases.unrecorded:
        time.sleep(TICK_SECONDS)


def _say(count: int) -> None:
    events = "1 event" if count == 1 else f"{count} events"
    said = f"The lease of {events} ran out. Waiting for a process to renew it ..."
    say(said, err=True)
