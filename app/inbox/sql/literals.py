"""Constants that are written into the SQL.

A bound parameter costs more than its value at every delivery.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa


def word(text: str) -> sa.ColumnElement[str]:
    """Return a constant ``text`` for the SQL. It is not escaped."""
    return sa.literal_column(f"'{text}'", sa.Text)


def number(value: float) -> sa.ColumnElement[Any]:
    """Return a constant number for the SQL."""
    return sa.literal_column(str(value), sa.Integer if isinstance(value, int) else sa.Double)
