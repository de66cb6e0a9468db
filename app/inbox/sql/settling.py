"""The statements that renew the lease of a claim, and that end the claim with a result.

PostgreSQL may run a statement late whose answer timed out, even beside the next try. Each statement
here names the claim with its attempt and token, so a late run changes nothing or records the same.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import sqlalchemy as sa

from app.inbox.sql import parking
from app.inbox.sql.literals import word
from app.inbox.sql.operations import error_groups
from app.inbox.sql.rows import ZERO, lease_end
from app.inbox.sql.schema import events, now
from app.states import Outcome, State

_this_claim = sa.and_(
    events.c.id == sa.bindparam("event_id"),
    events.c.attempt == sa.bindparam("claim"),
    events.c.claimed_by == sa.bindparam("token"),
)

#: Renews a lease, even one that has ended, unless another attempt has taken the event.
RENEW = (
    sa.update(events)
    .where(_this_claim, events.c.state == word(State.RUNNING))
    .values(lease_until=lease_end)
    .returning(events.c.id)
)


@cache
def renew_many(count: int) -> sa.Executable:
    """Return the statement that renews ``count`` leases and skips locked rows.

    The parameters are ``event_id_0``, ``token_0`` and so on. It does not say which it renewed.
    """
    these_claims = [
        column.in_([sa.bindparam(f"{name}_{each}", type_=column.type) for each in range(count)])
        for name, column in (("event_id", events.c.id), ("token", events.c.claimed_by))
    ]
    free = (
        sa.select(events.c.id)
        .where(*these_claims, events.c.state == word(State.RUNNING))
        .with_for_update(skip_locked=True)
    )
    return sa.update(events).where(events.c.id.in_(free)).values(lease_until=lease_end)


#: The columns of every event whose claim has ended.
settled: dict[str, Any] = {
    "crashes": ZERO,
    "lease_until": sa.null(),
    # A replica of an earlier version may claim it next, and does not store the length of a lease.
    "lease_seconds": sa.null(),
    "locked_key": sa.null(),
    "slot": sa.null(),
    "settled_at": now(),
}


def _settle(*returned: sa.ColumnElement[Any], **values: Any) -> sa.Executable:
    """Return the statement that ends a claim with these ``values``, and that returns columns.

    A statement whose answer was lost is sent again. So it matches its own result too.
    """
    return (
        sa.update(events)
        .where(
            _this_claim,
            sa.or_(
                events.c.state == word(State.RUNNING),
                sa.and_(
                    events.c.state == values["state"],
                    parking.outcome == values["outcome"],
                ),
                # Released by a stop, and ended after all before another attempt took the event.
                sa.and_(
                    events.c.state == word(State.PENDING),
                    parking.outcome == word(Outcome.RELEASED),
                ),
            ),
        )
        .values(**values, **settled)
        .returning(events.c.id, *returned)
    )


_group = error_groups.c.fingerprint == sa.bindparam("fingerprint")
_words = (error_groups.c.exception, error_groups.c.place)

#: Ends a claim with any result. Returns the words for the error group, as they were before.
SETTLE = _settle(
    *(sa.select(each).where(_group).scalar_subquery() for each in _words),
    state=sa.bindparam("state"),
    outcome=sa.bindparam("outcome"),
    reason=sa.bindparam("reason"),
    traceback=sa.bindparam("traceback"),
    fingerprint=sa.bindparam("fingerprint"),
    release=sa.bindparam("release"),
    attempts_used=sa.bindparam("attempts_used"),
    due_at=now() + sa.bindparam("delay", type_=sa.Double),
)


def success(outcome: Outcome) -> dict[str, Any]:
    """Return the columns of an event whose callback returned."""
    return {
        "state": word(State.DONE),
        "outcome": word(outcome),
        "reason": sa.null(),
        "traceback": sa.null(),
    }


#: Ends a claim whose callback returned, in a handler module and in the fallback.
FINISH = _settle(**success(Outcome.HANDLED))
FINISH_BY_FALLBACK = _settle(**success(Outcome.FALLBACK))

#: Ends a claim whose event needs no run: its twin has succeeded.
FINISH_AS_TWIN = _settle(**success(Outcome.TWIN))

#: The statement that ends a claim with each outcome of a success.
FINISHES = {
    Outcome.HANDLED: FINISH,
    Outcome.FALLBACK: FINISH_BY_FALLBACK,
    Outcome.TWIN: FINISH_AS_TWIN,
    Outcome.SHADOW: _settle(**success(Outcome.SHADOW)),
}
