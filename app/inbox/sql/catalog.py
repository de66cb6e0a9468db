"""Queries of the catalogs of both databases: which objects a database has."""

from __future__ import annotations

from typing import NamedTuple

import sqlalchemy as sa

_names: sa.BindParameter[list[str]] = sa.bindparam("names", expanding=True)

#: Tables with their columns, and views, indexes and triggers.
_ON_SQLITE = sa.text(
    "SELECT lower(m.name), m.type = 'table', p.name, 1 FROM sqlite_master m"
    " LEFT JOIN pragma_table_info(m.name) p ON m.type = 'table'"
    " WHERE lower(m.name) IN :names"
).bindparams(_names)

#: Tables with their columns, all that shares its names with tables, functions without parameters,
#: and types. A table is hidden if ``search_path`` finds another one of its name first.
_ON_POSTGRESQL = sa.text(
    "SELECT c.relname, c.relkind IN ('r', 'p'), a.attname, pg_table_is_visible(c.oid)"
    " FROM pg_class c"
    " LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"
    " WHERE c.relnamespace = to_regnamespace(quote_ident(:schema)) AND c.relname IN :names"
    " UNION ALL SELECT proname, false, NULL, true FROM pg_proc"
    " WHERE pronamespace = to_regnamespace(quote_ident(:schema))"
    " AND pronargs = 0 AND proname IN :names"
    " UNION ALL SELECT typname, false, NULL, true FROM pg_type"
    " WHERE typnamespace = to_regnamespace(quote_ident(:schema))"
    " AND typrelid = 0 AND typname IN :names"
).bindparams(_names)

_SCHEMA_OF = sa.text(
    "SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE c.oid = to_regclass(:table)"
)
_CURRENT_SCHEMA = sa.text("SELECT current_schema()")
_SEARCH_PATH = sa.text("SELECT current_schemas(false)::text[]")
_HAS_OWN_PATH = sa.text(
    "SELECT setting IS NOT DISTINCT FROM reset_val FROM pg_settings WHERE name = 'search_path'"
)
_MAY_CREATE = sa.text("SELECT has_schema_privilege(:schema, 'CREATE')")
_HAS_SCHEMA = sa.text("SELECT to_regnamespace(quote_ident(:schema)) IS NOT NULL")


class Catalog(NamedTuple):
    """The objects of some names in one schema.

    ``columns`` holds the columns of each table, ``others`` the names of all other objects,
    ``hidden`` the tables that ``search_path`` does not find.
    """

    columns: dict[str, set[str]]
    others: set[str]
    hidden: set[str]


def read_catalog(connection: sa.Connection, schema: str | None, names: list[str]) -> Catalog:
    """Return the objects of these ``names`` in a ``schema``. SQLite has only one, which is None."""
    query = _ON_POSTGRESQL if has_schemas(connection) else _ON_SQLITE
    found = Catalog({}, set(), set())
    for name, is_table, column, is_visible in connection.execute(
        query, {"names": names, "schema": schema} if has_schemas(connection) else {"names": names}
    ):
        if not is_table:
            found.others.add(name)
            continue
        found.columns.setdefault(name, set()).add(column)
        if not is_visible:
            found.hidden.add(name)
    return found


def has_schemas(connection: sa.Connection) -> bool:
    """Return True on PostgreSQL."""
    return connection.dialect.name == "postgresql"


def schema_of(connection: sa.Connection, table: str) -> str | None:
    """Return the schema in which ``search_path`` finds this table, or None."""
    name: str | None = connection.execute(_SCHEMA_OF, {"table": table}).scalar()
    return name


def current_schema(connection: sa.Connection) -> str | None:
    """Return the schema in which a table without a schema is created. None if there is none.

    SQLite has none.
    """
    if not has_schemas(connection):
        return None
    name: str | None = connection.execute(_CURRENT_SCHEMA).scalar()
    return name


def search_path(connection: sa.Connection) -> list[str]:
    """Return the schemas of ``search_path`` that exist, in its order."""
    return list(connection.execute(_SEARCH_PATH).scalar_one())


def has_own_path(connection: sa.Connection) -> bool:
    """Return True if ``search_path`` is as at the connection's start.

    Another client of a pooler can have changed it.
    """
    return bool(connection.execute(_HAS_OWN_PATH).scalar())


def may_create(connection: sa.Connection, schema: str) -> bool:
    """Return True if the role may create objects in the ``schema``."""
    return bool(connection.execute(_MAY_CREATE, {"schema": schema}).scalar())


def has_schema(connection: sa.Connection, schema: str) -> bool:
    """Return True if the ``schema`` exists."""
    return bool(connection.execute(_HAS_SCHEMA, {"schema": schema}).scalar())


def use_schema(connection: sa.Connection, schema: str) -> None:
    """Let names without a schema mean this ``schema``, until the end of the transaction.

    A transaction's own setting works with a pooler too.
    """
    connection.execute(
        sa.text("SELECT set_config('search_path', quote_ident(:schema), true)"), {"schema": schema}
    )
