"""Finds the tables of the inbox in a database, and refuses those of another application.

A database may belong to other applications too. A table of theirs can have one of our names, and
many applications have a table ``alembic_version``. So nothing is created or changed before all
names are known to be free or ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import sqlalchemy as sa

from app.errors import InboxUnavailable, StartError
from app.inbox.sql import catalog
from app.inbox.sql.catalog import Catalog
from app.inbox.sql.revisions import columns_at, other_names_at, versions

#: The version table of the releases before 0.3.0. Other applications may have one of this name.
LEGACY_TABLE = "alembic_version"
LEGACY_REVISIONS = frozenset({"0001", "0002", "0003", "0004"})


class Tables(NamedTuple):
    """The tables of the inbox in a database.

    ``schema`` is where they are or have to be created; None on SQLite. ``revision`` is None if
    there are none. ``works_with`` is the oldest revision whose code works with them. ``is_legacy``:
    the revision is in ``alembic_version``.
    """

    schema: str | None
    revision: str | None = None
    works_with: str | None = None
    is_legacy: bool = False


def find_tables(connection: sa.Connection, head: str) -> Tables:
    """Return the tables of the inbox. ``head`` is the newest revision that this version knows.

    Raises ``StartError`` if a name of ours is taken by another application, or if a table of ours
    is incomplete.
    """
    found = find_version(connection) or _nothing_found(connection)
    names = [versions.name, *columns_at(head), *other_names_at(head)]
    there = catalog.read_catalog(connection, found.schema, names)
    known = columns_at(min(found.revision, head)) if found.revision else {}
    own = {*known, *([versions.name] if found.revision and not found.is_legacy else [])}
    own_others = other_names_at(min(found.revision, head)) if found.revision else set()
    taken = {*there.columns} - own | there.others - own_others
    problems = [
        *(_foreign(name, found.schema) for name in sorted(taken)),
        *_incomplete(there, known, found.schema),
        *(_hidden(name, found.schema) for name in sorted(there.hidden & own)),
    ]
    if problems:
        raise StartError("The inbox cannot be used:", problems)
    return found


def find_version(connection: sa.Connection) -> Tables | None:
    """Return the tables of the inbox that is found first, by its version table. None if none is."""
    for name in (versions.name, LEGACY_TABLE):
        schema = None
        if catalog.has_schemas(connection):
            schema = catalog.schema_of(connection, name)
            if schema is None:
                continue
        found = _read_version(connection, name, schema)
        if found is not None:
            return found
    return None


def _nothing_found(connection: sa.Connection) -> Tables:
    """Return where the tables have to be created."""
    if not catalog.has_schemas(connection):
        return Tables(None)
    schema = catalog.current_schema(connection)
    if schema is None:
        reason = "no schema of search_path exists. Create one, or set DATABASE_SCHEMA"
        raise InboxUnavailable("the inbox is not available", reason=reason)
    return Tables(schema)


def _read_version(connection: sa.Connection, name: str, schema: str | None) -> Tables | None:
    """Return the tables that a version table is about. None if it is not ours."""
    is_legacy = name == LEGACY_TABLE
    there = catalog.read_catalog(connection, schema, [name, "events"]).columns
    wanted = {"version_num"} if is_legacy else {each.name for each in versions.columns}
    if not wanted <= there.get(name, set()):
        return None
    if is_legacy and not columns_at("0001")["events"] <= there.get("events", set()):
        return None
    table = sa.table(name, *map(sa.column, there[name]), schema=schema)
    rows = connection.execute(sa.select(table)).mappings().all()
    if len(rows) != 1 or (is_legacy and rows[0].get("version_num") not in LEGACY_REVISIONS):
        return None
    (row,) = rows
    return Tables(schema, row["version_num"], row.get("works_with"), is_legacy)


def _foreign(name: str, schema: str | None) -> str:
    if schema is None:
        return (
            f"the file of DATABASE_URL has something named {name!r} that is not of this service."
            " Nothing was changed. Set DATABASE_URL to a file of its own"
        )
    return (
        f"the schema {schema!r} of DATABASE_URL has something named {name!r} that is not of this"
        " service. Nothing was changed. Set DATABASE_SCHEMA to a schema of its own, or DATABASE_URL"
        " to another database"
    )


def _incomplete(
    there: Catalog, known: Mapping[str, frozenset[str]], schema: str | None
) -> list[str]:
    place = "" if schema is None else f" in the schema {schema!r}"
    problems = []
    for name, columns in sorted(known.items()):
        missing = ", ".join(sorted(columns - there.columns.get(name, set())))
        if missing:
            lacks = f"lacks the columns {missing}" if name in there.columns else "is missing"
            problems.append(f"the inbox's table {name!r}{place} {lacks}. Restore a backup")
    return problems


def _hidden(name: str, schema: str | None) -> str:
    return (
        f"another table {name!r} comes before the inbox's one in search_path."
        f" Set DATABASE_SCHEMA={schema}"
    )
