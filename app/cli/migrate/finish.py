"""``flask migrate finish``: what to switch off at the end of a move, and in which order."""

from __future__ import annotations

import click
from flask.cli import with_appcontext

from app.cli.hints import hint
from app.cli.inbox_errors import explained
from app.cli.migrate.plan import read_endpoint
from app.cli.migrate.status import HOUR, compared, hours_option
from app.cli.output import plural, say
from app.inbox.filters import EventFilter
from app.services import services
from app.states import State
from app.stripe_api.catalog import module_name
from app.stripe_api.migration import TypeToMove


@click.command("finish")
@click.argument("endpoint_id", metavar="WE_OR_ED")
@hours_option("Each event of the last hours must have come as both kinds.")
@with_appcontext
@click.pass_context
def finish(context: click.Context, /, endpoint_id: str, *, hours: float) -> None:
    """Say which types can leave the endpoint WE_OR_ED, and what to do in which order.

    A type can leave it if its events came as both kinds, and none is dead. This changes nothing.
    The exit status is 1 if a type that has a thin form cannot leave it yet.
    """
    endpoint, types = read_endpoint(endpoint_id)
    movable = [each for each in types if each.thin]
    with explained():
        reasons = {each: _reason_to_wait(each, hours * HOUR) for each in movable}
        open_types = [
            name
            for each in movable
            if not reasons[each]
            for name in (each.snapshot, str(each.thin))
            if _is_open(name)
        ]
    ready = [each for each, reason in reasons.items() if not reason]
    for each, reason in reasons.items():
        if reason:
            say(f"Not yet: {each.snapshot}: {reason}.")
    for each in types:
        if each.thin is None:
            say(f"Stays: {each.snapshot} has no thin form.")
    if ready:
        _say_steps(endpoint.id, ready, open_types, leaves_all=len(ready) == len(types))
    else:
        say("No type can leave it.")
    context.exit(1 if any(reasons.values()) else 0)


def _reason_to_wait(each: TypeToMove, seconds: float) -> str | None:
    """Return why a type has to stay at the old endpoint, or None if it can leave it."""
    if not each.has_thin_module:
        return each.next_step
    if not each.has_snapshot_module:
        return None
    own = services()
    row = compared(
        own.inbox,
        str(each.thin),
        is_shadow=own.registry.policy(str(each.thin)).shadow,
        livemode=own.settings.livemode,
        seconds=seconds,
    )
    return None if row.is_ready else row.next_step.removeprefix("ready: ")


def _is_open(event_type: str) -> bool:
    """Return True if events of this type are pending or run."""
    own = services()
    return any(
        own.inbox.administration.count(
            EventFilter(type=event_type, state=state, livemode=own.settings.livemode)
        ).number
        for state in (State.PENDING, State.RUNNING)
    )


def _say_steps(
    endpoint_id: str, ready: list[TypeToMove], open_types: list[str], *, leaves_all: bool
) -> None:
    names = ", ".join(each.snapshot for each in ready)
    say(f"{plural(len(ready), 'type')} can leave {endpoint_id}: {names}.")
    say()
    if leaves_all:
        say(f"1. In the dashboard, disable {endpoint_id}. Do not delete it yet.")
    else:
        say(f"1. In the dashboard, remove these types from {endpoint_id}.")
    say("2. Wait until no event from before step 1 is pending or running:")
    for name in (name for each in ready for name in (each.snapshot, str(each.thin))):
        command = hint("events", "list", "--state", "pending", "--type", name)
        say(f"   {command}{' (some are now)' if name in open_types else ''}")
    files = [f"{module_name(each.snapshot)}.py" for each in ready if each.has_snapshot_module]
    say(f"3. Delete {', '.join(files) or 'no module'}, and deploy.")
    if leaves_all:
        say(f"4. Delete {endpoint_id}, and remove its secret from STRIPE_WEBHOOK_SECRET.")
