"""The set-up of a command that runs callbacks itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.cli.output import say

if TYPE_CHECKING:
    from app.service import Service


def begin_running(parts: Service) -> None:
    """Start the watchdog and the leases, and decide which running events are orphans.

    When a lease ran out, this waits up to its grace: a live process renews it. Raises
    ``Unavailable``.
    """
    parts.leases.watchdog.start()
    parts.leases.start()
    parts.leases.decide_suspects(_say)


def _say(count: int) -> None:
    events = "1 event" if count == 1 else f"{count} events"
    said = f"The lease of {events} ran out. Waiting for a process to renew it ..."
    say(said, err=True)
