"""The statements of the inbox, built once.

They run on SQLite and on PostgreSQL as they stand. Each one decides and records together:
what it may do stands in its own conditions, never in a question asked before.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from app.inbox.schema import events, now, readiness

_lease_end = now() + sa.bindparam("lease_seconds", type_=sa.Double)

#: An event that may be claimed: due, left behind by a runner that died, or never run because
#: it was of the wrong mode. The last is not "done" by its callback, so it may run still.
_claimable = sa.or_(
    events.c.state == "pending",
    sa.and_(events.c.state == "running", events.c.lease_until < now()),
    sa.and_(events.c.state == "done", events.c.outcome == "wrong_mode"),
)


def _if_claimable(column: sa.Column[Any], value: object) -> sa.Case[Any]:
    return sa.case((_claimable, value), else_=column)


def _new_row(**values: object) -> dict[str, object]:
    given: dict[str, object] = {
        name: sa.bindparam(name) for name in ("id", "type", "livemode", "context", "body")
    }
    return {**given, "deliveries": 1, "received_at": now(), "due_at": now(), **values}


_answer = (
    events.c.id,
    events.c.type,
    events.c.body,
    events.c.state,
    events.c.outcome,
    events.c.attempt,
    events.c.claimed_by,
)

#: Records a delivery, and claims the event if it may be run. Who holds the claim is told by
#: the token that comes back; run twice with one token it still says the same.
ACCEPT = (
    insert(events)
    .values(
        _new_row(
            state="running",
            attempt=1,
            claimed_by=sa.bindparam("token"),
            lease_until=_lease_end,
        )
    )
    .on_conflict_do_update(
        index_elements=[events.c.id],
        set_={
            "deliveries": events.c.deliveries + 1,
            "state": _if_claimable(events.c.state, "running"),
            "outcome": _if_claimable(events.c.outcome, None),
            "attempt": _if_claimable(events.c.attempt, events.c.attempt + 1),
            "claimed_by": _if_claimable(events.c.claimed_by, sa.bindparam("token")),
            "lease_until": _if_claimable(events.c.lease_until, _lease_end),
        },
    )
    .returning(*_answer)
)

#: Records a delivery of an event that is not to be run.
SET_ASIDE = (
    insert(events)
    .values(
        _new_row(
            state="done",
            outcome=sa.bindparam("outcome"),
            attempt=0,
            settled_at=now(),
        )
    )
    .on_conflict_do_update(
        index_elements=[events.c.id],
        set_={"deliveries": events.c.deliveries + 1},
    )
    .returning(*_answer)
)

_claimed = sa.and_(
    events.c.id == sa.bindparam("event_id"),
    events.c.attempt == sa.bindparam("claim"),
    events.c.state == "running",
)

#: Lets a lease begin anew, even one that has ended, as long as nobody else took the event.
RENEW = sa.update(events).where(_claimed).values(lease_until=_lease_end).returning(events.c.id)

#: Ends a claim. A statement whose answer was lost is sent again, so it also matches its own
#: result: the attempt number is this claim's alone.
SETTLE = (
    sa.update(events)
    .where(
        events.c.id == sa.bindparam("event_id"),
        events.c.attempt == sa.bindparam("claim"),
        sa.or_(
            events.c.state == "running",
            sa.and_(
                events.c.state == sa.bindparam("state"),
                events.c.outcome == sa.bindparam("outcome"),
            ),
        ),
    )
    .values(
        state=sa.bindparam("state"),
        outcome=sa.bindparam("outcome"),
        reason=sa.bindparam("reason"),
        due_at=now(),
        lease_until=None,
        settled_at=now(),
    )
    .returning(events.c.id)
)

FIND = sa.select(events).where(events.c.id == sa.bindparam("event_id"))

LATEST = (
    sa.select(events)
    .order_by(events.c.received_at.desc(), events.c.id.desc())
    .limit(sa.bindparam("limit"))
)

#: Writes one row, so that a full disk or a read-only replica is found out.
PROBE = (
    insert(readiness)
    .values(id=1, checked_at=now())
    .on_conflict_do_update(index_elements=[readiness.c.id], set_={"checked_at": now()})
    .returning(readiness.c.id)
)
