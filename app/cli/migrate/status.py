"""``flask migrate status``: which events came as both kinds, and what to do next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import click
from flask.cli import with_appcontext

from app.cli.hints import hint
from app.cli.inbox_errors import explained
from app.cli.output import iso_time, json_option, say, say_json, say_table
from app.processing.pairs import paired_types
from app.services import services
from app.stripe_api.catalog import Kind, kind_of, snapshot_type

if TYPE_CHECKING:
    from app.inbox import Inbox
    from app.inbox.moving import Seen

HEADINGS = (
    *("type", "both", "snapshot only", "thin only", "failed"),
    *("last alone", "both since", "next"),
)

HOUR = 3600.0


def hours_option(help_text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the option ``--hours``: how far back a command compares events."""
    return click.option(
        "--hours",
        type=click.FloatRange(min=0, min_open=True, max=24 * 365),
        default=24.0,
        show_default=True,
        help=help_text,
    )


@dataclass(frozen=True, slots=True)
class Row:
    """The events of one pair of types."""

    thin_type: str
    is_shadow: bool
    snapshot: Seen
    thin: Seen

    @property
    def alone_at(self) -> float | None:
        """When the latest event came that has no twin. None if all have one."""
        times = [each for each in (self.snapshot.alone_at, self.thin.alone_at) if each is not None]
        return max(times, default=None)

    @property
    def both_since_at(self) -> float | None:
        """Since when all events have a twin: the first one after the last that came alone."""
        snapshot, thin = self.snapshot.both_since_at, self.thin.both_since_at
        return None if snapshot is None or thin is None else max(snapshot, thin)

    @property
    def failed(self) -> int:
        """The number of events of both kinds that are dead, or failed as a shadow."""
        return self.snapshot.failed + self.thin.failed

    @property
    def is_ready(self) -> bool:
        """Return True if thin events alone do all that the snapshot events do."""
        seen = self.snapshot.both or self.thin.both
        return bool(seen) and not self.failed and self.alone_at is None and not self.is_shadow

    @property
    def next_step(self) -> str:
        """What to do, in words."""
        if self.failed:
            return "repair the failed events"
        if not (self.snapshot.both or self.thin.both):
            return "wait for events of both kinds"
        if self.alone_at is not None:
            return "find out why events came alone, or wait"
        if self.is_shadow:
            return "ready: remove SHADOW from the thin module"
        return "ready: remove the type from the old endpoint"


@click.command("status")
@hours_option("Compare the events of the last hours.")
@json_option
@with_appcontext
def status(*, hours: float, as_json: bool) -> None:
    """Show for each pair of modules which events came as both kinds, and what to do next.

    The events of the mode of the key are compared that are done or dead, at most the latest 10,000
    of each type. An event came alone if its twin is not in the inbox.
    """
    own = services()
    both = paired_types(own.registry.handled_types)
    livemode, seconds = own.settings.livemode, hours * HOUR
    with explained():
        rows = [
            compared(
                own.inbox,
                each,
                is_shadow=own.registry.policy(each).shadow,
                livemode=livemode,
                seconds=seconds,
            )
            for each in sorted(both)
            if kind_of(each) is Kind.THIN
        ]
    if as_json:
        say_json([_as_object(each) for each in rows])
    elif not rows:
        first = hint("migrate", "plan", "WE_OR_ED")
        say(f"No type has a snapshot and a thin module. Begin with {first}.")
    else:
        say_table([_cells(each) for each in rows], headings=HEADINGS)


def compared(
    inbox: Inbox, thin_type: str, *, is_shadow: bool, livemode: bool, seconds: float
) -> Row:
    """Return the events of a thin type and of its snapshot type in the last ``seconds``."""
    seen = inbox.moving.seen
    return Row(
        thin_type,
        is_shadow,
        seen(snapshot_type(thin_type), "snapshot", livemode=livemode, seconds=seconds),
        seen(thin_type, "thin", livemode=livemode, seconds=seconds),
    )


def _cells(row: Row) -> tuple[str, ...]:
    return (
        snapshot_type(row.thin_type),
        str(row.snapshot.both),
        str(row.snapshot.alone),
        str(row.thin.alone),
        str(row.failed),
        _time(row.alone_at),
        _time(row.both_since_at),
        row.next_step,
    )


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else iso_time(seconds)


def _as_object(row: Row) -> dict[str, object]:
    return {
        "type": snapshot_type(row.thin_type),
        "shadow": row.is_shadow,
        **{name: _with_times(getattr(row, name)) for name in ("snapshot", "thin")},
        "both_since_at": None if row.both_since_at is None else iso_time(row.both_since_at),
        "next": row.next_step,
    }


def _with_times(seen: Seen) -> dict[str, object]:
    return {
        name: iso_time(value) if name.endswith("_at") and value is not None else value
        for name, value in asdict(seen).items()
    }
