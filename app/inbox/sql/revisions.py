"""The objects that each revision of the migrations has, and the table that records the revision."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import sqlalchemy as sa

from app.inbox.sql.operations import PREFIX
from app.inbox.sql.schema import metadata

#: The revision of the tables. Alembic writes ``version_num``.
versions = sa.Table(
    "stripe_receiver_version",
    sa.MetaData(),
    sa.Column("version_num", sa.String(32), primary_key=True),
    # The oldest revision whose code works with these tables.
    sa.Column("works_with", sa.String(32)),
)

#: The names of all other objects that the migrations create beside the tables, by revision.
_OTHER_NAMES = {
    "0002": (
        *("events_due", "events_waiting", "events_running", "events_holds", "events_received"),
        *("retries_event", "attempt_begins", "event_removed", "remember_attempt", "forget_event"),
    ),
    "0006": tuple(
        f"{PREFIX}{each}"
        for each in (
            *("type", "context", "object", "open", "outcome", "group"),
            *("audit_target", "error_groups_last", "alert_messages_due", "failed"),
        )
    ),
    "0007": (f"{PREFIX}lane", f"{PREFIX}slot"),
    "0008": (f"{PREFIX}pair_holds_event", f"{PREFIX}thin_events_snapshot"),
}


@cache
def columns_at(revision: str) -> Mapping[str, frozenset[str]]:
    """Return the tables of a ``revision``, each with the names of its columns."""
    return {
        table.name: frozenset(each.name for each in table.columns if _is_in(each.info, revision))
        for table in metadata.sorted_tables
        if _is_in(table.info, revision)
    }


def other_names_at(revision: str) -> set[str]:
    """Return the names of the other objects of a ``revision``: indexes, triggers, functions."""
    return {name for since, names in _OTHER_NAMES.items() if since <= revision for name in names}


def _is_in(info: dict[Any, Any], revision: str) -> bool:
    return str(info.get("since", "0001")) <= revision
