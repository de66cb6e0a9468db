"""The statements of reconciliation: known events, backfill, watermarks, leadership."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from app.inbox.sql.claims import unfinished
from app.inbox.sql.literals import number, word
from app.inbox.sql.rescue import ROUNDING
from app.inbox.sql.rows import ZERO, new_row
from app.inbox.sql.schema import events, leaders, now, watermarks
from app.states import Outcome, State

#: Of the given ids, those that the inbox has.
KNOWN = sa.select(events.c.id).where(events.c.id.in_(sa.bindparam("ids", expanding=True)))


_BACKFILLED = sa.select(events.c.id).where(
    events.c.id == sa.bindparam("id"), events.c.source == word("reconcile")
)


def _backfill(**values: object) -> Any:
    """Return the statement that records an event that no delivery brought.

    A known event stays unchanged: a delivery may have come since the list was read.
    """
    due = now() - sa.bindparam("backdate_seconds", type_=sa.Double)
    own = {"attempt": ZERO, "deliveries": ZERO, "due_at": due}
    return (
        insert(events)
        .values({**new_row(source=word("reconcile"), **values), **own})
        .on_conflict_do_nothing(index_elements=[events.c.id])
        .returning(events.c.id)
        .execution_options(result=_BACKFILLED)
    )


#: Records an event that is to be run.
BACKFILL = _backfill(state=word(State.PENDING))

#: Records an event of the other mode, which is not to be run.
BACKFILL_SKIPPED = _backfill(
    state=word(State.DONE), outcome=word(Outcome.WRONG_MODE), settled_at=now()
)

#: The backfilled events that are due and not settled, the first due first.
UNFINISHED = sa.select(events.c.id).where(unfinished).order_by(events.c.due_at, events.c.id)

_latest = (
    sa.select(events.c.context, events.c.livemode, events.c.received_at)
    .order_by(events.c.received_at.desc(), events.c.id.desc())
    .limit(sa.bindparam("searched", type_=sa.Integer))
    .subquery("latest")
)

#: The connected accounts of the latest events, the one with the latest event first.
RECENT_ACCOUNTS = (
    sa.select(_latest.c.context)
    .where(_latest.c.context.is_not(None), _latest.c.livemode == sa.bindparam("livemode"))
    .group_by(_latest.c.context)
    .order_by(sa.func.max(_latest.c.received_at).desc(), _latest.c.context)
    .limit(sa.bindparam("limit", type_=sa.Integer))
)

WATERMARKS = sa.select(watermarks.c.type, watermarks.c.reached).where(
    watermarks.c.livemode == sa.bindparam("livemode"),
    watermarks.c.context == sa.bindparam("context"),
)

_first = insert(watermarks).values(
    {
        name: sa.bindparam(name, type_=watermarks.c[name].type)
        for name in ("livemode", "context", "type", "reached")
    }
)

#: Advances a watermark, but not over a gap: the range that was read has to begin before it.
ADVANCE_WATERMARK = _first.on_conflict_do_update(
    index_elements=[watermarks.c.livemode, watermarks.c.context, watermarks.c.type],
    set_={"reached": _first.excluded.reached},
    where=sa.and_(
        watermarks.c.reached <= _first.excluded.reached,
        watermarks.c.reached >= sa.bindparam("begin", type_=sa.Double),
    ),
).returning(watermarks.c.type)

_term_end = now() + sa.bindparam("seconds", type_=sa.Double)
_candidate = insert(leaders).values(
    name=sa.bindparam("name"), leader_id=sa.bindparam("leader_id"), until=_term_end
)

#: Makes a process the leader, or prolongs its term, unless another process is the leader. A term
#: that ends later than one term from now was begun before the clock stepped back, and has ended.
ACQUIRE_LEADERSHIP = _candidate.on_conflict_do_update(
    index_elements=[leaders.c.name],
    set_={"leader_id": _candidate.excluded.leader_id, "until": _term_end},
    where=sa.or_(
        leaders.c.until < now(),
        leaders.c.until > _term_end + number(ROUNDING),
        leaders.c.leader_id == _candidate.excluded.leader_id,
    ),
).returning(leaders.c.name)

#: Finds the leader of a task, if its term has not ended.
LEADER = sa.select(leaders.c.leader_id).where(
    leaders.c.name == sa.bindparam("name"), leaders.c.until > now()
)
