"""The statements of the inbox, built once.

They run on SQLite and on PostgreSQL as they stand. Each one decides and records together:
what it may do stands in its own conditions, never in a question asked before.

Words and numbers that never change are written into the SQL: a bound parameter costs more
than its value at every delivery.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from app.inbox.schema import events, now, readiness


def _word(word: str) -> sa.ColumnElement[str]:
    return sa.literal_column(f"'{word}'", sa.Text)


def _number(number: int) -> sa.ColumnElement[int]:
    return sa.literal_column(str(number), sa.Integer)


_one = _number(1)
_lease_end = now() + sa.bindparam("lease_seconds", type_=sa.Double)

#: An event that may be claimed: due, left behind by a runner that died, or never run because
#: it was of the wrong mode. The last is not "done" by its callback, so it may run still.
_claimable = sa.or_(
    events.c.state == _word("pending"),
    sa.and_(events.c.state == _word("running"), events.c.lease_until < now()),
    sa.and_(events.c.state == _word("done"), events.c.outcome == _word("wrong_mode")),
)


def _new_row(**values: object) -> dict[str, object]:
    given: dict[str, object] = {
        name: sa.bindparam(name) for name in ("id", "type", "livemode", "context", "body")
    }
    return {**given, "deliveries": _one, "received_at": now(), "due_at": now(), **values}


_first = insert(events).values(
    _new_row(
        state=_word("running"),
        attempt=_one,
        claimed_by=sa.bindparam("token"),
        lease_until=_lease_end,
    )
)


def _if_claimable(name: str, value: object = None) -> sa.Case[Any]:
    """Return the column's new value: what a first delivery would have put, or ``value``."""
    given = _first.excluded[name] if value is None else value
    return sa.case((_claimable, given), else_=events.c[name])


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
ACCEPT = _first.on_conflict_do_update(
    index_elements=[events.c.id],
    set_={
        "deliveries": events.c.deliveries + _one,
        "state": _if_claimable("state"),
        "outcome": _if_claimable("outcome"),
        "attempt": _if_claimable("attempt", events.c.attempt + _one),
        "claimed_by": _if_claimable("claimed_by"),
        "lease_until": _if_claimable("lease_until"),
    },
).returning(*_answer)

#: Records a delivery of an event that is not to be run.
SET_ASIDE = (
    insert(events)
    .values(
        _new_row(
            state=_word("done"),
            outcome=sa.bindparam("outcome"),
            attempt=_number(0),
            settled_at=now(),
        )
    )
    .on_conflict_do_update(
        index_elements=[events.c.id],
        set_={"deliveries": events.c.deliveries + _one},
    )
    .returning(*_answer)
)

#: Counts a delivery of an event that is not to be claimed.
COUNT = (
    sa.update(events)
    .where(events.c.id == sa.bindparam("event_id"))
    .values(deliveries=events.c.deliveries + _one)
    .returning(events.c.attempt)
)

_mine = sa.and_(
    events.c.id == sa.bindparam("event_id"),
    events.c.attempt == sa.bindparam("claim"),
    events.c.claimed_by == sa.bindparam("token"),
)

#: Lets a lease begin anew, even one that has ended, as long as nobody else took the event.
RENEW = (
    sa.update(events)
    .where(_mine, events.c.state == _word("running"))
    .values(lease_until=_lease_end)
    .returning(events.c.id)
)

#: Ends a claim. A statement whose answer was lost is sent again, so it also matches its own
#: result: the attempt number is this claim's alone.
SETTLE = (
    sa.update(events)
    .where(
        _mine,
        sa.or_(
            events.c.state == _word("running"),
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
        lease_until=sa.null(),
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
    .values(id=_one, checked_at=now())
    .on_conflict_do_update(index_elements=[readiness.c.id], set_={"checked_at": now()})
    .returning(readiness.c.id)
)
