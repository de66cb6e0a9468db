"""Parked events: pending events of a paused type, with a ``due_at`` in the far future.

The clock repair of the release before makes a pending event due that has such a ``due_at``, unless
its outcome is ``failed`` or ``released``. So a parked event has another word for these outcomes: no
event stays parked when you go back to that release.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from app.inbox.models import PARKED, PARKED_PREFIX
from app.inbox.sql.literals import number, word
from app.inbox.sql.schema import events
from app.states import Outcome

#: The outcomes after which an event waits for its delay.
_DELAYED = (Outcome.FAILED, Outcome.RELEASED)

#: What is added to ``due_at``.
parked = number(PARKED)

#: When an event was or is due, also while it is parked.
due_at: sa.ColumnElement[Any] = sa.case(
    (events.c.due_at >= parked, events.c.due_at - parked), else_=events.c.due_at
)


def outcome_of(event: Any) -> sa.ColumnElement[Any]:
    """Return the outcome of an event, also while it is parked.

    The trigger ``attempt_begins`` does the same.
    """
    unparked: sa.ColumnElement[Any] = sa.func.replace(
        event.c.outcome, word(PARKED_PREFIX), word(""), type_=sa.Text
    )
    return unparked


outcome = outcome_of(events)

#: The outcome that the row of a parked event has.
parked_outcome = sa.case(
    (
        events.c.outcome.in_([word(each) for each in _DELAYED]),
        word(PARKED_PREFIX) + events.c.outcome,
    ),
    else_=events.c.outcome,
)

#: True for an event that waits for its delay.
is_delayed = outcome.in_([word(each) for each in _DELAYED])
