"""The statements of reconciliation: what is missing, what was brought back, how far it got."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from app.inbox.sql.literals import number, word
from app.inbox.sql.rescue import orphaned
from app.inbox.sql.schema import events, leaders, now, watermarks
from app.inbox.sql.statements import (
    answer,
    lease,
    new_row,
    rescuable,
)

#: Which of some events the inbox has.
KNOWN = sa.select(events.c.id).where(events.c.id.in_(sa.bindparam("ids", expanding=True)))


def _bring_back(**values: object) -> Any:
    """Return the statement that records an event that no delivery brought.

    What is there stays as it is: a delivery may have come since the list was read.
    """
    due = now() - sa.bindparam("ahead", type_=sa.Double)
    own = {"attempt": number(0), "deliveries": number(0), "due_at": due}
    return (
        insert(events)
        .values({**new_row(source=word("reconcile"), **values), **own})
        .on_conflict_do_nothing(index_elements=[events.c.id])
        .returning(events.c.id)
    )


#: Records an event that is to be run.
BRING_BACK = _bring_back(state=word("pending"))

#: Records an event of the other mode, which is not to be run.
BRING_BACK_ASIDE = _bring_back(state=word("done"), outcome=word("wrong_mode"), settled_at=now())

_is_open = sa.and_(
    events.c.source == word("reconcile"),
    events.c.livemode == sa.bindparam("livemode"),
    sa.or_(
        sa.and_(events.c.state == word("pending"), events.c.due_at <= now()),
        rescuable(events),
    ),
)

#: What reconciliation brought back and nothing has settled yet, the first one first.
OPEN = sa.select(events.c.id).where(_is_open).order_by(events.c.due_at, events.c.id)

#: Claims one of them.
CLAIM_OPEN = (
    sa.update(events)
    .where(events.c.id == sa.bindparam("event_id"), _is_open)
    .values(
        state=word("running"),
        outcome=sa.null(),
        attempt=events.c.attempt + number(1),
        claimed_by=sa.bindparam("token"),
        claimed_at=now(),
        **lease,
        crashes=sa.case((orphaned(events), events.c.crashes + number(1)), else_=events.c.crashes),
    )
    .returning(*answer)
)

REACHED = sa.select(watermarks.c.type, watermarks.c.reached).where(
    watermarks.c.livemode == sa.bindparam("livemode"),
    watermarks.c.context == sa.bindparam("context"),
)

_first = insert(watermarks).values(
    {
        name: sa.bindparam(name, type_=watermarks.c[name].type)
        for name in ("livemode", "context", "type", "reached")
    }
)

#: Moves a watermark on, but not over a gap that was not read: what was read has to begin before it.
ADVANCE = _first.on_conflict_do_update(
    index_elements=[watermarks.c.livemode, watermarks.c.context, watermarks.c.type],
    set_={"reached": _first.excluded.reached},
    where=sa.and_(
        watermarks.c.reached < _first.excluded.reached,
        watermarks.c.reached >= sa.bindparam("begin", type_=sa.Double),
    ),
).returning(watermarks.c.type)

_term_end = now() + sa.bindparam("seconds", type_=sa.Double)
_candidate = insert(leaders).values(
    name=sa.bindparam("name"), holder=sa.bindparam("holder"), until=_term_end
)

#: Takes or keeps the right to do what only one may do, if nobody else has it.
LEAD = _candidate.on_conflict_do_update(
    index_elements=[leaders.c.name],
    set_={"holder": _candidate.excluded.holder, "until": _term_end},
    where=sa.or_(leaders.c.until < now(), leaders.c.holder == _candidate.excluded.holder),
).returning(leaders.c.name)
