"""The statements that compare the snapshot and the thin events of a type."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from app.inbox.sql.literals import number, word
from app.inbox.sql.rows import ONE, ZERO
from app.inbox.sql.schema import events, now, thin_events
from app.states import Outcome, State

#: Events of one type that are compared at most, the latest ones.
BOUND = 10_000

_event = (
    sa.select(events.c.id, events.c.state, events.c.outcome, events.c.reason, events.c.received_at)
    .where(
        events.c.type == sa.bindparam("type", type_=sa.Text),
        events.c.livemode == sa.bindparam("livemode", type_=sa.Boolean),
        # The condition of the index by type, as it stands in the index.
        events.c.state.in_([word(State.DONE), word(State.DEAD)]),
        events.c.received_at >= now() - sa.bindparam("within", type_=sa.Double),
    )
    .order_by(events.c.received_at.desc())
    .limit(number(BOUND))
    .subquery("event")
)

_twin = events.alias("twin")
_snapshot_has_twin = sa.exists(
    sa.select(thin_events.c.event_id).where(thin_events.c.snapshot_event == _event.c.id)
)
_thin_has_twin = sa.exists(
    sa.select(_twin.c.id)
    .select_from(thin_events)
    .join(_twin, _twin.c.id == thin_events.c.snapshot_event)
    .where(thin_events.c.event_id == _event.c.id)
)


def _compared(has_twin: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """Return the numbers of recent events of a type: with and without a twin, and failed."""
    both = sa.case((has_twin, ONE), else_=ZERO).label("both")
    each = sa.select(_event, both).cte("each")
    alone = each.c.both == ZERO
    last_alone = sa.select(sa.func.max(each.c.received_at)).where(alone).scalar_subquery()
    # No time is before the first event: none came alone.
    is_later = each.c.received_at > sa.func.coalesce(last_alone, number(0.0))
    has_failed = sa.or_(
        each.c.state == word(State.DEAD),
        sa.and_(each.c.outcome == word(Outcome.SHADOW), each.c.reason.is_not(None)),
    )
    return sa.select(
        sa.func.coalesce(sa.func.sum(each.c.both), ZERO).label("both"),
        sa.func.coalesce(sa.func.sum(sa.case((alone, ONE), else_=ZERO)), ZERO).label("alone"),
        sa.func.coalesce(sa.func.sum(sa.case((has_failed, ONE), else_=ZERO)), ZERO).label("failed"),
        sa.func.min(each.c.received_at).label("first_at"),
        sa.func.max(sa.case((alone, each.c.received_at))).label("alone_at"),
        sa.func.min(sa.case((sa.and_(~alone, is_later), each.c.received_at))).label(
            "both_since_at"
        ),
    )


COMPARED = {"snapshot": _compared(_snapshot_has_twin), "thin": _compared(_thin_has_twin)}
