"""The statements behind the commands of a person."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from app.inbox.sql.actions import reopened
from app.inbox.sql.claims import retriable, retry_note
from app.inbox.sql.rescue import shown
from app.inbox.sql.rows import ONE
from app.inbox.sql.schema import attempts, events, now, readiness, retries

_this_event = events.c.id == sa.bindparam("event_id")

#: Makes an event due for the workers now, as if it had never failed, and records the retry.
REOPEN = (
    sa.update(events)
    .where(_this_event, retriable)
    .values(**reopened)
    .returning(events.c.id)
    .execution_options(repeatable=False, also=retry_note)
)

FIND = sa.select(*shown).where(_this_event)

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

#: Writes one row, so that a full disk or a read-only replica is found.
TEST_WRITE = (
    insert(readiness)
    .values(id=ONE, checked_at=now())
    .on_conflict_do_update(index_elements=[readiness.c.id], set_={"checked_at": now()})
    .returning(readiness.c.id)
)
