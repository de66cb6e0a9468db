"""How to write a row about each row that a statement changes, in the same transaction.

The statements define the rows, and the engines write them. Neither imports the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

#: The parameter of ``RowForEach.insert`` with the first column of a changed row.
CHANGED = "changed_id"


class RowForEach:
    """A row of another table, written for each row that a statement returns.

    The execution option ``also`` gives it to a statement.
    """

    def __init__(self, table: sa.Table, key: str, values: Mapping[str, Any]) -> None:
        """Take the ``table``. Its column ``key`` gets the first column of the changed row.

        The ``values`` of the other columns can use the parameters of the statement.
        """
        self._table = table
        self._key = key
        self._values = dict(values)
        self.insert = sa.insert(table).values({key: sa.bindparam(CHANGED), **self._values})
        """Writes the row about one changed row, on SQLite."""

    def with_change(self, change: Any) -> sa.Select[Any]:
        """Return one statement for both, on PostgreSQL. It returns the changed rows."""
        changed = change.cte("changed")
        rows = sa.select(changed.c[0], *self._values.values())
        written = sa.insert(self._table).from_select([self._key, *self._values], rows)
        return sa.select(changed).add_cte(written.cte("written"))
