"""The statements of the watch's findings."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from app.inbox.sql.operations import findings
from app.inbox.sql.schema import now

_new = insert(findings).values(
    name=sa.bindparam("name"),
    level=sa.bindparam("level"),
    text=sa.bindparam("text"),
    details=sa.bindparam("details"),
    since=now(),
    seen_at=now(),
)

#: Records a finding. ``since`` stays while the level stays.
RECORD = _new.on_conflict_do_update(
    index_elements=[findings.c.name],
    set_={
        "level": _new.excluded.level,
        "text": _new.excluded.text,
        "details": _new.excluded.details,
        "seen_at": now(),
        "since": sa.case((findings.c.level == _new.excluded.level, findings.c.since), else_=now()),
    },
).returning(findings.c.name)

FINDINGS = sa.select(findings).order_by(findings.c.name)

#: Removes a finding of something that is gone, such as a destination.
REMOVE = (
    sa.delete(findings).where(findings.c.name == sa.bindparam("name")).returning(findings.c.name)
)
