"""The batches of the statements that run at every delivery (group commit on SQLite)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import sqlalchemy as sa

from app.inbox.batch_form import BatchForm
from app.inbox.sql.deliveries import CLAIMED_ROW, ENQUEUE, ENQUEUED_ROW, RECORD_AND_CLAIM
from app.inbox.sql.literals import word
from app.inbox.sql.rows import RecordedRow
from app.inbox.sql.schema import events
from app.inbox.sql.settling import FINISH, FINISH_BY_FALLBACK, settled, success
from app.states import Outcome, State


def _insert_many(row: dict[str, Any], count: int) -> sa.Executable:
    """Record ``count`` new events. Fails if one of them is known."""
    return sa.insert(events).values([_numbered(each, row) for each in range(count)])


def _numbered(number: int, row: dict[str, Any]) -> dict[str, Any]:
    """Return the ``row`` with the parameters of one execution."""
    return {
        name: sa.bindparam(f"{value.key}__{number}")
        if isinstance(value, sa.BindParameter)
        else value
        for name, value in row.items()
    }


def _finish_many(outcome: Outcome, count: int) -> sa.Executable:
    """End ``count`` claims with this ``outcome`` of a callback that returned.

    Each token is unique, so no row matches with the parameters of two executions.
    """
    these_claims = [
        column.in_([sa.bindparam(f"{name}__{each}", type_=column.type) for each in range(count)])
        for name, column in (
            ("event_id", events.c.id),
            ("claim", events.c.attempt),
            ("token", events.c.claimed_by),
        )
    ]
    return (
        sa.update(events)
        .where(*these_claims, events.c.state == word(State.RUNNING))
        .values(**success(outcome), **settled)
    )


def _recorded(state: str, attempt: int) -> Callable[[dict[str, Any]], RecordedRow]:
    """Return a function that builds the row of a new event from its parameters."""

    def row(given: dict[str, Any]) -> RecordedRow:
        return RecordedRow(
            id=given["id"],
            type=given["type"],
            body=given["body"],
            state=state,
            outcome=None,
            attempt=attempt,
            claimed_by=given.get("token"),
            attempts_used=0.0,
            context=given["context"],
            trace=given["trace"],
        )

    return row


def _finish_form(outcome: Outcome) -> BatchForm:
    return BatchForm(partial(_finish_many, outcome), lambda given: (given["event_id"],))


#: The statements of every delivery, and their batches.
FORMS: dict[Any, BatchForm] = {
    RECORD_AND_CLAIM: BatchForm(partial(_insert_many, CLAIMED_ROW), _recorded("running", 1)),
    ENQUEUE: BatchForm(partial(_insert_many, ENQUEUED_ROW), _recorded("pending", 0)),
    FINISH: _finish_form(Outcome.HANDLED),
    FINISH_BY_FALLBACK: _finish_form(Outcome.FALLBACK),
}
