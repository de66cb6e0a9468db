"""What a command does that runs callbacks itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.cli.output import say

if TYPE_CHECKING:
    from app.service import Service


def begin_running(parts: Service) -> None:
    """Keep the leases of this process, and find out which running events are orphans.

    When the lease of an event ran out, that takes up to the grace of the lease: a process that is
    alive renews it. Raises ``Unavailable``.
    """
    parts.leases.watchdog.start()
    parts.leases.start()
    parts.leases.decide_suspects(_say)


def _say(count: int) -> None:
    events = "1 event" if count == 1 else f"{count} events"
    said = f"The lease of {events} ran out. Waiting for a process to renew it ..."
    say(said, err=True)
