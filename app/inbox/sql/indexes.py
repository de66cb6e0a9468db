"""The indexes of ``events`` that lists, counts and the operations page read.

Every write pays for an index. PostgreSQL writes one entry for each version of a row whose state
changes, so the conditions leave out the states through which every event goes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import FunctionElement

from app.inbox.sql.operations import PREFIX


class Index(NamedTuple):
    """An index of ``events``. ``columns`` and ``condition`` are SQL."""

    name: str
    columns: str
    condition: str

    def create(self, *, concurrently: bool = False, table: str = "events") -> str:
        """Return the statement that creates it. ``concurrently`` is for PostgreSQL only."""
        how = " CONCURRENTLY" if concurrently else ""
        return f"CREATE INDEX{how} {self.name} ON {table} ({self.columns}) WHERE {self.condition}"


#: The id of the related object: the third word of the concurrency key, if it has three.
_AFTER_FIRST = "substr(subject, instr(subject, ' ') + 1)"
_OBJECT_ID = {
    "sqlite": f"CASE WHEN instr({_AFTER_FIRST}, ' ') > 0"
    f" THEN substr({_AFTER_FIRST}, instr({_AFTER_FIRST}, ' ') + 1) END",
    "postgresql": "NULLIF(split_part(subject, ' ', 3), '')",
}


class object_id(FunctionElement[str]):  # noqa: N801 - a function in SQL
    """The id of the related object."""

    inherit_cache = True
    type = sa.Text()


@compiles(object_id)
def _object_id(_element: object_id, compiler: Any, **_kw: Any) -> str:
    return _OBJECT_ID[compiler.dialect.name]


#: SQLite changes an index only when a column of it changes. There the condition would cost two
#: writes for each event in queue mode.
_IS_IDLE = {"sqlite": "", "postgresql": "state <> 'running' AND "}

_WITHOUT_MODULE = "state = 'done' AND outcome IN ('fallback', 'wrong_mode')"


def indexes_of_events(dialect: str) -> list[Index]:
    """Return the indexes for a ``dialect`` of SQLAlchemy's."""
    idle, object_id = _IS_IDLE[dialect], _OBJECT_ID[dialect]
    return [
        Index(f"{PREFIX}{name}", columns, condition)
        for name, columns, condition in (
            ("type", "type, received_at", "state IN ('done', 'dead')"),
            ("context", "context, received_at, type", f"{idle}context IS NOT NULL"),
            ("object", f"({object_id}), received_at", f"{idle}({object_id}) IS NOT NULL"),
            ("open", "state, received_at, id", "state IN ('pending', 'dead')"),
            ("outcome", "outcome, received_at", _WITHOUT_MODULE),
            ("group", "fingerprint, state, received_at", "fingerprint IS NOT NULL"),
        )
    ]


#: The indexes of a table on PostgreSQL. An interrupted ``CREATE INDEX CONCURRENTLY`` leaves one
#: that is not valid.
OF_TABLE = sa.text(
    "SELECT c.relname AS name, i.indisvalid AS is_valid FROM pg_index i"
    " JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = to_regclass(:table)"
)

#: The builds of indexes of a table that are in progress.
BUILDING = sa.text("SELECT 1 FROM pg_stat_progress_create_index WHERE relid = to_regclass(:table)")
