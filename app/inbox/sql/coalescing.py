"""The claim that runs the newest of several events of one object, and supersedes the others.

Callbacks fetch the current state, so one run serves all events that were recorded before it. It is
decided at the claim, not at its success: if the run fails, it is retried, and is the newest still.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from app.inbox.claim_rules import ClaimRules
from app.inbox.sql.claims import EARLIEST, OF_TOKEN, first
from app.inbox.sql.literals import number, word
from app.inbox.sql.rows import ZERO, reclaimed, returned_columns
from app.inbox.sql.schema import events, now, retries
from app.states import Outcome, State

#: Events that one claim supersedes at most. It holds the write lock of SQLite for milliseconds. If
#: more are due, the newest of the first ones runs.
MOST = 500

#: A concurrency key with a related object: its account, its kind and its id. Events without an
#: object can each be about something else.
_WITH_OBJECT = word("% % %")

#: The columns of a superseded event. The attempt is counted, so that the trigger keeps the one
#: before with its error.
_superseded: dict[str, Any] = {
    "state": word(State.DONE),
    "outcome": word(Outcome.SUPERSEDED),
    "attempt": events.c.attempt + sa.literal_column("1"),
    "claimed_at": now(),
}


def claim_newest(selected: sa.Select[Any], rules: ClaimRules, slot: Any) -> sa.Update:
    """Return the statement that claims the newest event of the ``selected`` one's object.

    The others become done. It returns a row for each, and only the claimed one has a body. It
    supersedes due events only: none that runs, is parked, waits for its retry, or belongs to
    another account or mode. Nor is one superseded that a person retried.
    """
    chosen = selected.cte("chosen")
    chosen_id = sa.select(chosen.c.id).scalar_subquery()
    same = _same(chosen_id, rules)
    order = (same.c.received_at.desc(), same.c.id.desc())
    newest = first(sa.select(same.c.id).order_by(*order)).scalar_subquery()
    runs = sa.func.coalesce(newest, chosen_id)
    is_run = events.c.id == runs
    claimed = {**reclaimed, "locked_key": events.c.concurrency_key, "slot": slot}
    ended = {
        "reason": word("superseded by ") + runs,
        "traceback": sa.null(),
        "settled_at": now(),
        "crashes": ZERO,
    }
    return (
        sa.update(events)
        .where(events.c.id.in_(sa.union_all(sa.select(chosen.c.id), sa.select(same.c.id))))
        .values(
            **{
                name: sa.case((is_run, value), else_=_superseded.get(name, sa.null()))
                for name, value in claimed.items()
            },
            **{
                name: sa.case((is_run, events.c[name]), else_=value)
                for name, value in ended.items()
            },
        )
        .returning(*(_returned(each) for each in returned_columns))
        .execution_options(result=OF_TOKEN, all_rows=True)
    )


def _same(chosen_id: Any, rules: ClaimRules) -> sa.CTE:
    """Select the due events of the chosen one's type, object, account and mode, with itself.

    None if its type does not coalesce, if it has no object, or if a person retried it.
    """
    types = [word(each) for each in sorted(rules.coalesced)]
    head = (
        sa.select(events)
        .where(
            events.c.id == chosen_id,
            events.c.type.in_(types),
            events.c.concurrency_key.like(_WITH_OBJECT),
            _is_not_retried(events),
        )
        .cte("head")
    )
    each = events.alias("each")
    key = sa.select(head.c.concurrency_key).scalar_subquery()
    # Ranges and not equations, as for the elder events of a key (``claims``).
    place = sa.tuple_(each.c.concurrency_key, each.c.due_at)
    return (
        sa.select(each.c.id, each.c.received_at)
        .where(
            each.c.state == word(State.PENDING),
            place >= sa.tuple_(key, number(EARLIEST)),
            place <= sa.tuple_(key, now() + number(0.0)),
            each.c.type == sa.select(head.c.type).scalar_subquery(),
            each.c.livemode == sa.select(head.c.livemode).scalar_subquery(),
            _is_not_retried(each),
        )
        .order_by(each.c.concurrency_key, each.c.due_at, each.c.id)
        .limit(number(MOST))
        .offset(ZERO)
        .with_for_update(skip_locked=True)
        .cte("same")
    )


def _is_not_retried(event: Any) -> sa.ColumnElement[bool]:
    """True if no person had the event run again. The retry is recorded with its due time."""
    return ~sa.exists(sa.select(retries.c.id).where(retries.c.event_id == event.c.id))


def _returned(column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """Return the column, without the bodies of the superseded events."""
    if column is not events.c.body:
        return column
    return sa.case((events.c.state == word(State.RUNNING), column)).label("body")
