"""The statements of the audit log."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from app.inbox.sql.operations import audit
from app.inbox.sql.schema import now


def _given(name: str) -> sa.BindParameter[Any]:
    return sa.bindparam(f"{name}_", type_=audit.c[name].type)


RECORD = (
    sa.insert(audit)
    .values(
        at=now(), **{name: _given(name) for name in ("by", "action", "target", "why", "affected")}
    )
    .returning(audit.c.id)
    .execution_options(repeatable=False)
)
COMPLETE = (
    sa.update(audit)
    .where(audit.c.id == sa.bindparam("audit_id"))
    .values(affected=_given("affected"))
    .returning(audit.c.id)
)


def entries(before_id: int | None, target: str | None, limit: int) -> sa.Select[Any]:
    """Return the statement that selects the entries before an id, about a target if given."""
    conditions = []
    if before_id is not None:
        conditions.append(audit.c.id < before_id)
    if target is not None:
        conditions.append(audit.c.target == target)
    return sa.select(audit).where(*conditions).order_by(audit.c.id.desc()).limit(limit)
