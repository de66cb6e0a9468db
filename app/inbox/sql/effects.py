"""The statements about the effects that ``app.once`` records."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from app.inbox.sql.pairs import of_one_action
from app.inbox.sql.schema import effects, events, now

_this_event = sa.bindparam("event_id", type_=sa.Text)
_purpose = sa.bindparam("purpose", type_=sa.Text)

#: Records an effect of an event that is in the inbox. A known one keeps its time.
RECORD = (
    insert(effects)
    .from_select(
        ["event_id", "purpose", "at"],
        sa.select(events.c.id, _purpose, now()).where(events.c.id == _this_event),
    )
    .on_conflict_do_nothing(index_elements=[effects.c.event_id, effects.c.purpose])
)

#: Finds an effect of an event or of its twin.
FIND = sa.select(effects.c.at).where(
    effects.c.event_id.in_(of_one_action), effects.c.purpose == _purpose
)

OF_EVENT = (
    sa.select(effects.c.purpose, effects.c.at)
    .where(effects.c.event_id == _this_event)
    .order_by(effects.c.at, effects.c.purpose)
)
