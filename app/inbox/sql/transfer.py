"""The statements that read whole events for an export, and add them in an import."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from app.inbox.sql.schema import attempts, effects, events, retries, thin_events

_ids: sa.BindParameter[Any] = sa.bindparam("ids", expanding=True)

#: Each column has the name that it has in Python.
EVENTS = sa.select(*(each.label(each.key) for each in events.columns)).where(events.c.id.in_(_ids))
ATTEMPTS = (
    sa.select(attempts)
    .where(attempts.c.event_id.in_(_ids))
    .order_by(attempts.c.event_id, attempts.c.attempt)
)
RETRIES = sa.select(retries).where(retries.c.event_id.in_(_ids)).order_by(retries.c.id)
EFFECTS = (
    sa.select(effects)
    .where(effects.c.event_id.in_(_ids))
    .order_by(effects.c.event_id, effects.c.purpose)
)
THIN_EVENTS = sa.select(thin_events).where(thin_events.c.event_id.in_(_ids))

#: Adds events that are missing, and returns their ids. A known event stays unchanged.
ADD = insert(events).on_conflict_do_nothing(index_elements=[events.c.id]).returning(events.c.id)
