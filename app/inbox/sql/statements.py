"""The statements of the inbox, built once.

They run on SQLite and on PostgreSQL as they stand. Each one decides and records together:
what it may do stands in its own conditions, never in a question asked before.

A statement that PostgreSQL did not answer in time has failed for its caller. A hung server may
still commit it later. So each statement has to bear being late, and running beside the one that was
sent after it:

- ``RECORD``, ``SET_ASIDE``: the event is authentic, and Stripe, which was answered 503, delivers
  it again. The row counts one delivery more.
- ``ACCEPT`` and the claims: the event is claimed with a token that no process knows. So no process
  runs or settles it. When its lease ends it becomes an orphan.
- ``SETTLE``: the claim is named with its attempt and its token. If the event still has that claim,
  the next try records the same result. If another claim has it, nothing changes.
- ``RENEW``, ``renew_many``: the same. If its process has ended, the event becomes an orphan one
  lease later.
- ``BURY_POISON``: the event is dead, as it had to be. The line in the log is missing.
- The command of a person: it took effect, though it reported a failure.
- ``NOTIFY``, ``PROBE``: one more notification or time, which does no harm.

Words and numbers that never change are written into the SQL: a bound parameter costs more
than its value at every delivery.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from app.inbox.engine.sqlite import Together
from app.inbox.sql.literals import number, word
from app.inbox.sql.rescue import orphaned
from app.inbox.sql.schema import attempts, events, now, pauses, readiness, retries

_one = number(1)
_lease_seconds = sa.bindparam("lease_seconds", type_=sa.Double)
lease_end = now() + _lease_seconds

#: What each claim puts into the row of its lease.
lease: dict[str, Any] = {"lease_until": lease_end, "lease_seconds": _lease_seconds}

_zero = number(0)

CRASHED = "its process ended again and again with no word of what became of it"


def _is_poison(event: Any) -> sa.ColumnElement[bool]:
    """True for an orphan that ended too many processes."""
    return sa.and_(orphaned(event), event.c.crashes + _one >= sa.bindparam("max_crashes"))


def rescuable(event: Any) -> sa.ColumnElement[bool]:
    """True for an orphan that may be run again."""
    return sa.and_(orphaned(event), event.c.crashes + _one < sa.bindparam("max_crashes"))


#: Never run because it was of the wrong mode: not "done" by its callback, so it may run still.
_wrong_mode = sa.and_(events.c.state == word("done"), events.c.outcome == word("wrong_mode"))

#: An event that may be claimed.
_claimable = sa.or_(events.c.state == word("pending"), rescuable(events), _wrong_mode)


def new_row(**values: object) -> dict[str, object]:
    """Return the columns of a new event: what its notification says, and these ``values``."""
    given: dict[str, object] = {
        name: sa.bindparam(name)
        for name in ("id", "type", "livemode", "context", "body", "subject")
    }
    counted = {"deliveries": _one, "spent": _zero, "crashes": _zero}
    return {**given, **counted, "received_at": now(), "due_at": now(), **values}


_claimed: dict[str, Any] = {
    "state": word("running"),
    "attempt": _one,
    "claimed_by": sa.bindparam("token"),
    "claimed_at": now(),
    **lease,
}
_first = insert(events).values(new_row(**_claimed))


def _if_claimable(name: str, value: object = None, *, poison: object = None) -> sa.Case[Any]:
    """Return the column's new value: what a first delivery would have put, or ``value``.

    ``poison`` is what it becomes when the event killed too many processes.
    """
    given = _first.excluded[name] if value is None else value
    cases = [(_claimable, given)]
    if poison is not None:
        cases.append((_is_poison(events), poison))
    return sa.case(*cases, else_=events.c[name])


answer = (
    events.c.id,
    events.c.type,
    events.c.body,
    events.c.state,
    events.c.outcome,
    events.c.attempt,
    events.c.claimed_by,
    events.c.spent,
    events.c.context,
)

_buried: dict[str, Any] = {
    "state": word("dead"),
    "outcome": word("crashed"),
    "reason": word(CRASHED),
    "traceback": sa.null(),
    "lease_until": sa.null(),
    "holds": sa.null(),
}

#: Records a delivery, and claims the event if it may be run. Who holds the claim is told by
#: the token that comes back; run twice with one token it still says the same.
ACCEPT = _first.on_conflict_do_update(
    index_elements=[events.c.id],
    set_={
        "deliveries": events.c.deliveries + _one,
        "state": _if_claimable("state", poison=_buried["state"]),
        "outcome": _if_claimable("outcome", poison=_buried["outcome"]),
        "reason": sa.case((_is_poison(events), _buried["reason"]), else_=events.c.reason),
        "traceback": sa.case((_is_poison(events), sa.null()), else_=events.c.traceback),
        "attempt": _if_claimable("attempt", events.c.attempt + _one),
        "claimed_by": _if_claimable("claimed_by"),
        "claimed_at": _if_claimable("claimed_at"),
        "lease_until": _if_claimable("lease_until", poison=sa.null()),
        "lease_seconds": _if_claimable("lease_seconds"),
        "holds": sa.case((_is_poison(events), sa.null()), else_=events.c.holds),
        "settled_at": sa.case((_is_poison(events), now()), else_=events.c.settled_at),
        "crashes": sa.case((orphaned(events), events.c.crashes + _one), else_=events.c.crashes),
    },
).returning(*answer)

_recorded: dict[str, Any] = {"state": word("pending"), "attempt": _zero}

#: Records a delivery of an event that a worker is to run. What is there keeps its state.
RECORD = (
    insert(events)
    .values(new_row(**_recorded))
    .on_conflict_do_update(
        index_elements=[events.c.id],
        set_={
            "deliveries": events.c.deliveries + _one,
            "state": sa.case((_wrong_mode, word("pending")), else_=events.c.state),
            "outcome": sa.case((_wrong_mode, sa.null()), else_=events.c.outcome),
            "due_at": sa.case((_wrong_mode, now()), else_=events.c.due_at),
        },
    )
    .returning(*answer)
)

#: Records a delivery of an event that is not to be run.
SET_ASIDE = (
    insert(events)
    .values(
        new_row(
            state=word("done"),
            outcome=sa.bindparam("outcome"),
            attempt=_zero,
            settled_at=now(),
        )
    )
    .on_conflict_do_update(
        index_elements=[events.c.id],
        set_={"deliveries": events.c.deliveries + _one},
    )
    .returning(*answer)
)

_mine = sa.and_(
    events.c.id == sa.bindparam("event_id"),
    events.c.attempt == sa.bindparam("claim"),
    events.c.claimed_by == sa.bindparam("token"),
)

#: Lets a lease begin anew, even one that has ended, as long as nobody else took the event.
RENEW = (
    sa.update(events)
    .where(_mine, events.c.state == word("running"))
    .values(lease_until=lease_end)
    .returning(events.c.id)
)


@cache
def renew_many(count: int) -> sa.Executable:
    """Return the statement that renews so many leases at once, but waits for no locked row.

    The parameters are ``event_id_0``, ``token_0`` and so on. It tells nothing of each claim.
    """
    mine = [
        column.in_([sa.bindparam(f"{name}_{each}", type_=column.type) for each in range(count)])
        for name, column in (("event_id", events.c.id), ("token", events.c.claimed_by))
    ]
    free = (
        sa.select(events.c.id)
        .where(*mine, events.c.state == word("running"))
        .with_for_update(skip_locked=True)
    )
    return sa.update(events).where(events.c.id.in_(free)).values(lease_until=lease_end)


_settled: dict[str, Any] = {
    "crashes": _zero,
    "lease_until": sa.null(),
    # A replica of the version before may claim it next, and does not say how long its lease is.
    "lease_seconds": sa.null(),
    "holds": sa.null(),
    "settled_at": now(),
}


def _settle(**values: Any) -> sa.Executable:
    """Return the statement that ends a claim with these ``values``.

    A statement whose answer was lost is sent again, so it also matches its own result: the
    attempt number is this claim's alone.
    """
    return (
        sa.update(events)
        .where(
            _mine,
            sa.or_(
                events.c.state == word("running"),
                sa.and_(
                    events.c.state == values["state"],
                    events.c.outcome == values["outcome"],
                ),
                # Given back while it ran, and ended after all before anybody took it.
                sa.and_(
                    events.c.state == word("pending"),
                    events.c.outcome == word("released"),
                ),
            ),
        )
        .values(**values, **_settled)
        .returning(events.c.id)
    )


#: Ends a claim, whatever became of it.
SETTLE = _settle(
    state=sa.bindparam("state"),
    outcome=sa.bindparam("outcome"),
    reason=sa.bindparam("reason"),
    traceback=sa.bindparam("traceback"),
    spent=sa.bindparam("spent"),
    due_at=now() + sa.bindparam("delay", type_=sa.Double),
)

_success: dict[str, Any] = {
    "state": word("done"),
    "outcome": word("handled"),
    "reason": sa.null(),
    "traceback": sa.null(),
}

#: Ends a claim whose callback succeeded.
FINISH = _settle(**_success)

_event = events.alias("candidate")
_other = events.alias("other")


def _claim(which: Any, **values: Any) -> sa.Executable:
    """Return the statement that claims the one event that ``which`` selects, if there is one."""
    # SQLite's dialect would put an offset of its own, as a parameter.
    chosen = which.limit(_one).offset(_zero).with_for_update(skip_locked=True).cte("chosen")
    return (
        sa.update(events)
        .where(events.c.id == sa.select(chosen.c.id).scalar_subquery())
        .values(
            state=word("running"),
            outcome=sa.null(),
            attempt=events.c.attempt + _one,
            claimed_by=sa.bindparam("token"),
            claimed_at=now(),
            **lease,
            **values,
        )
        .returning(*answer)
    )


#: Only of this process's mode, whose key the callbacks get, and of none while workers are paused.
_for_workers = sa.and_(
    _event.c.livemode == sa.bindparam("livemode"),
    ~sa.exists(sa.select(pauses.c.id)),
)
_is_due = sa.and_(_event.c.state == word("pending"), _event.c.due_at <= now())

#: Whether the event's object is taken, by another event that runs or by one whose turn is before.
#: The second is what keeps two workers from choosing two events of one object at the same moment:
#: both choose the first, and one of them gets it.
_is_held = sa.exists(
    sa.select(_other.c.id).where(_other.c.holds == _event.c.subject, _other.c.id != _event.c.id)
)
_has_elder = sa.exists(
    sa.select(_other.c.id).where(
        _other.c.state == word("pending"),
        _other.c.subject == _event.c.subject,
        _other.c.livemode == _event.c.livemode,
        _other.c.due_at <= now(),
        sa.tuple_(_other.c.due_at, _other.c.id) < sa.tuple_(_event.c.due_at, _event.c.id),
    )
)

#: Claims the event that has been due for longest and whose object is free.
CLAIM_DUE = _claim(
    sa.select(_event.c.id)
    .where(_is_due, ~_is_held, ~_has_elder, _for_workers)
    .order_by(_event.c.due_at, _event.c.id),
    holds=events.c.subject,
)

#: Claims an orphan.
CLAIM_ORPHAN = _claim(
    sa.select(_event.c.id)
    .where(rescuable(_event), ~_is_held, _for_workers)
    .order_by(_event.c.lease_until),
    holds=events.c.subject,
    crashes=events.c.crashes + _one,
)

#: Claims one event by its id, for a person: whatever its state, but not while it runs, and when it
#: is done only ``again``.
_retriable = sa.or_(
    events.c.state.in_([word("pending"), word("dead")]),
    sa.and_(events.c.state == word("done"), sa.bindparam("again", type_=sa.Boolean)),
)
CLAIM_ONE = (
    sa.update(events)
    .where(
        events.c.id == sa.bindparam("event_id"),
        sa.or_(_retriable, orphaned(events)),
    )
    .values(
        state=word("running"),
        outcome=sa.null(),
        attempt=events.c.attempt + _one,
        claimed_by=sa.bindparam("token"),
        claimed_at=now(),
        **lease,
    )
    .returning(*answer)
)

#: Makes an event due for the workers at once, as if it had never failed.
REOPEN = (
    sa.update(events)
    .where(events.c.id == sa.bindparam("event_id"), _retriable)
    .values(state=word("pending"), due_at=now(), spent=_zero, crashes=_zero)
    .returning(events.c.id)
)

#: Writes down who had an event run again, and why, if it may be.
NOTE_RETRY = (
    sa.insert(retries)
    .from_select(
        ["event_id", "at", "by", "why"],
        sa.select(
            events.c.id,
            now(),
            sa.cast(sa.bindparam("by"), sa.Text),
            sa.cast(sa.bindparam("why"), sa.Text),
        ).where(
            events.c.id == sa.bindparam("event_id"),
            sa.or_(_retriable, orphaned(events)),
        ),
    )
    .returning(retries.c.event_id)
)

#: Gives up on an event that has killed too many processes.
BURY_POISON = (
    sa.update(events)
    .where(
        events.c.id
        == sa.select(
            sa.select(_event.c.id)
            .where(_is_poison(_event))
            .limit(_one)
            .offset(_zero)
            .with_for_update(skip_locked=True)
            .cte("chosen")
            .c.id
        ).scalar_subquery()
    )
    .values(**_buried, crashes=events.c.crashes + _one, settled_at=now())
    .returning(events.c.id, events.c.type, events.c.attempt, events.c.context)
)

PAUSE = (
    insert(pauses)
    .values(id=_one, at=now(), by=sa.bindparam("by"), why=sa.bindparam("why"))
    .on_conflict_do_nothing(index_elements=[pauses.c.id])
    .returning(pauses.c.id)
)
RESUME = sa.delete(pauses).returning(pauses.c.id)
PAUSED = sa.select(pauses.c.at, pauses.c.by, pauses.c.why)

#: Tells the workers of other processes that something is due. On PostgreSQL only.
NOTIFY = sa.select(sa.func.pg_notify(sa.literal_column("'events_due'"), sa.literal_column("''")))

ATTEMPTS = (
    sa.select(attempts)
    .where(attempts.c.event_id == sa.bindparam("event_id"))
    .order_by(attempts.c.attempt)
)
RETRIES = (
    sa.select(retries.c.at, retries.c.by, retries.c.why)
    .where(retries.c.event_id == sa.bindparam("event_id"))
    .order_by(retries.c.id)
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


def _insert_many(row: dict[str, Any], count: int) -> sa.Executable:
    """Record so many new events. When one of them is known already, none is recorded."""
    return sa.insert(events).values([_of(each, row) for each in range(count)])


def _of(which: int, row: dict[str, Any]) -> dict[str, Any]:
    """Give the parameters of a row the names of its place."""
    return {
        name: sa.bindparam(f"{value.key}__{which}")
        if isinstance(value, sa.BindParameter)
        else value
        for name, value in row.items()
    }


def _finish_many(count: int) -> sa.Executable:
    """End so many claims whose callbacks succeeded.

    No two claims have one token, so of two rows none can match by what is the other's.
    """
    mine = [
        column.in_([sa.bindparam(f"{name}__{each}", type_=column.type) for each in range(count)])
        for name, column in (
            ("event_id", events.c.id),
            ("claim", events.c.attempt),
            ("token", events.c.claimed_by),
        )
    ]
    return (
        sa.update(events)
        .where(*mine, events.c.state == word("running"))
        .values(**_success, **_settled)
    )


def _answered(state: str, attempt: int) -> Callable[[dict[str, Any]], tuple[Any, ...]]:
    """Return what says how a new event is answered: the columns of ``answer``."""

    def row(given: dict[str, Any]) -> tuple[Any, ...]:
        mine = given["id"], given["type"], given["body"]
        return (*mine, state, None, attempt, given.get("token"), 0.0, given["context"])

    return row


#: What is written at every delivery, and how SQLite writes many of them as one statement.
TOGETHER = {
    ACCEPT: Together(partial(_insert_many, new_row(**_claimed)), _answered("running", 1)),
    RECORD: Together(partial(_insert_many, new_row(**_recorded)), _answered("pending", 0)),
    FINISH: Together(_finish_many, lambda given: (given["event_id"],)),
}
