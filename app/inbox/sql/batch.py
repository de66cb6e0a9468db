"""How SQLite writes many deliveries and results as one statement each (group commit)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import sqlalchemy as sa

from app.inbox.batch_form import BatchForm
from app.inbox.sql.deliveries import CLAIMED_ROW, ENQUEUE, ENQUEUED_ROW, RECORD_AND_CLAIM
from app.inbox.sql.literals import word
from app.inbox.sql.schema import events
from app.inbox.sql.settling import FINISH, settled, success


def _insert_many(row: dict[str, Any], count: int) -> sa.Executable:
    """Record ``count`` new events. Fails when one of them is known."""
    return sa.insert(events).values([_numbered(each, row) for each in range(count)])


def _numbered(number: int, row: dict[str, Any]) -> dict[str, Any]:
    """Return the ``row`` with the parameters of one execution."""
    return {
        name: sa.bindparam(f"{value.key}__{number}")
        if isinstance(value, sa.BindParameter)
        else value
        for name, value in row.items()
    }


def _finish_many(count: int) -> sa.Executable:
    """End ``count`` claims whose callbacks succeeded.

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
        .where(*these_claims, events.c.state == word("running"))
        .values(**success, **settled)
    )


def _answered(state: str, attempt: int) -> Callable[[dict[str, Any]], tuple[Any, ...]]:
    """Return a function that returns the columns of ``rows.answer`` for a new event."""

    def row(given: dict[str, Any]) -> tuple[Any, ...]:
        mine = given["id"], given["type"], given["body"]
        return (*mine, state, None, attempt, given.get("token"), 0.0, given["context"])

    return row


#: The statements of every delivery, and their batches.
FORMS: dict[Any, BatchForm] = {
    RECORD_AND_CLAIM: BatchForm(partial(_insert_many, CLAIMED_ROW), _answered("running", 1)),
    ENQUEUE: BatchForm(partial(_insert_many, ENQUEUED_ROW), _answered("pending", 0)),
    FINISH: BatchForm(_finish_many, lambda given: (given["event_id"],)),
}
