"""Brings the tables of the inbox to this version, with Alembic."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa
import structlog

from app.errors import InboxUnavailable, StartError
from app.inbox.sql import catalog
from app.inbox.sql.revisions import versions
from app.inbox.tables import LEGACY_REVISIONS, LEGACY_TABLE, Tables, find_tables, find_version

log = structlog.get_logger(__name__)

#: PostgreSQL's code of an error about missing rights.
INSUFFICIENT_PRIVILEGE = "42501"

FOLDER = Path(__file__).parent.parent / "migrations"
VERSIONS = "app.migrations.versions"


class Migrations(NamedTuple):
    """The migrations of this version: all revisions, the newest one, and its module."""

    revisions: frozenset[str]
    head: str
    newest: str


class Revisions(NamedTuple):
    """The revision of the tables, None if there are none, and the newest one of this version.

    ``is_pending``: a migration has to run.
    """

    current: str | None
    newest: str
    is_pending: bool

    @property
    def is_newer(self) -> bool:
        """True if the tables are of a newer version, and this version works with them."""
        return not self.is_pending and self.current != self.newest


def upgrade(
    connection: sa.Connection, schema: str | None, *, may_create: bool, to: str = "head"
) -> Revisions:
    """Run the migrations that are missing, in the ``connection``'s transaction.

    They end with the revision ``to``. A missing ``schema`` is created if ``may_create``. Until
    the transaction ends, ``search_path`` is the inbox's schema. Returns the revisions from before.
    Raises ``StartError`` as ``find_tables`` does, when this version does not work with the tables,
    and when a new inbox would hide another one.
    """
    other = None
    if schema is not None:
        other = find_version(connection)
        if not catalog.has_schema(connection, schema):
            _create_schema(connection, schema, may_create=may_create)
    path = catalog.search_path(connection) if other is not None else []
    before = examine(connection, schema)
    if before.current is None:
        if schema is None and not may_create:
            _require_own_path(connection)
        if schema is not None and other is not None:
            _refuse_to_hide(schema, other, path)
            log.warning("inbox_created_beside_another", schema=schema, other=other.schema)
    if before.is_pending:
        tables = find_tables(connection, before.newest)
        lacks_create = tables.schema is not None and not catalog.may_create(
            connection, tables.schema
        )
        try:
            _upgrade(connection, tables, to)
        except sa.exc.DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) == INSUFFICIENT_PRIVILEGE:
                raise _without_rights(tables, before, lacks_create=lacks_create) from error
            raise
    return before


def examine(connection: sa.Connection, schema: str | None) -> Revisions:
    """Return the revisions. A missing ``schema`` has no tables.

    If there are tables, ``search_path`` is their schema until the end of the transaction. Raises
    ``StartError`` as ``upgrade`` does.
    """
    own = migrations()
    if schema is not None:
        if not catalog.has_schema(connection, schema):
            return Revisions(None, own.head, is_pending=True)
        catalog.use_schema(connection, schema)
    tables = find_tables(connection, own.head)
    is_known = tables.revision is None or tables.revision in own.revisions
    if not is_known and tables.works_with not in own.revisions:
        raise StartError(
            "The inbox cannot be used:",
            [
                f"DATABASE_URL names an inbox of revision {tables.revision}, made by a newer"
                f" version of this service. This version works with revision {own.head}. Deploy"
                " the newer version"
            ],
        )
    if tables.schema is not None and tables.revision is not None:
        catalog.use_schema(connection, tables.schema)
    return Revisions(tables.revision, own.head, is_known and tables.revision != own.head)


@cache
def migrations() -> Migrations:
    """Return the migrations of this version, which are files like ``0005_schema.py``."""
    names = sorted(path.stem for path in (FOLDER / "versions").glob("[0-9]*.py"))
    revisions = [name.partition("_")[0] for name in names]
    return Migrations(frozenset(revisions), revisions[-1], names[-1])


def works_with() -> str:
    """Return the oldest revision whose version of the service works with the newest tables."""
    newest = import_module(f"{VERSIONS}.{migrations().newest}")
    return str(newest.works_with)


def _refuse_to_hide(schema: str, other: Tables, path: list[str]) -> None:
    """Refuse a new inbox in a ``schema`` that comes before the ``other`` one in the ``path``.

    Processes without ``DATABASE_SCHEMA`` would find it at their next start. Those of 0.2.0 would
    use it at once.
    """
    if [each for each in path if each in {schema, other.schema}] == [schema, other.schema]:
        raise StartError(
            "The inbox cannot be used:",
            [
                f"the schema {other.schema!r} has an inbox, and {schema!r} comes before it in"
                " search_path. Processes without DATABASE_SCHEMA would use the new inbox instead."
                " Nothing was changed. Set DATABASE_SCHEMA to a schema that is not in search_path"
            ],
        )


def _require_own_path(connection: sa.Connection) -> None:
    """Refuse to create tables where the ``search_path`` of another client leads."""
    if catalog.has_schemas(connection) and not catalog.has_own_path(connection):
        reason = "another client of the pooler changed search_path. Set DATABASE_SCHEMA"
        raise InboxUnavailable("the inbox is not available", reason=reason)


def _create_schema(connection: sa.Connection, schema: str, *, may_create: bool) -> None:
    if not may_create:
        reason = (
            f"the schema {schema} of the inbox does not exist."
            f" A start with DATABASE_SCHEMA={schema} creates it"
        )
        raise InboxUnavailable("the inbox is not available", reason=reason)
    try:
        connection.execute(sa.schema.CreateSchema(schema))
    except sa.exc.ProgrammingError:
        raise StartError(
            "The inbox cannot be used:",
            [
                f"the schema {schema} of DATABASE_SCHEMA does not exist, and the role of"
                " DATABASE_URL may not create it. Let an administrator run: CREATE SCHEMA"
                f" {schema} AUTHORIZATION role"
            ],
        ) from None


def _upgrade(connection: sa.Connection, tables: Tables, to: str) -> None:
    if tables.schema is not None:
        catalog.use_schema(connection, tables.schema)
    if tables.revision is None or tables.is_legacy:
        versions.create(connection)
    if tables.is_legacy:
        connection.execute(sa.insert(versions).values(version_num=tables.revision))
    # Nearly every start finds the tables migrated, and this import is a sixth of a start.
    from alembic import command  # noqa: PLC0415 - see above
    from alembic.config import Config  # noqa: PLC0415 - see above

    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, to)
    connection.execute(sa.update(versions).values(works_with=works_with()))
    if tables.is_legacy:
        # A replica of 0.2.0 reads ``alembic_version`` at its start, and runs missing migrations.
        legacy = sa.table(LEGACY_TABLE, sa.column("version_num"))
        connection.execute(sa.update(legacy).values(version_num=max(LEGACY_REVISIONS)))


def _without_rights(tables: Tables, revisions: Revisions, *, lacks_create: bool) -> StartError:
    if revisions.current is None:
        problem = (
            f"the role of DATABASE_URL may not create tables in the schema {tables.schema!r}. Set"
            " DATABASE_SCHEMA to a schema that it may create or owns, or let an administrator run:"
            f" GRANT CREATE ON SCHEMA {tables.schema} TO role"
        )
    else:
        problem = (
            f"the role of DATABASE_URL may not migrate the tables from revision {revisions.current}"
            f" to {revisions.newest}. Run `flask db upgrade` with the role that owns them, and set"
            " MIGRATE=check for the service"
        )
        if lacks_create:
            problem += (
                ". The owner needs CREATE on the schema, which this role lacks:"
                f" GRANT CREATE ON SCHEMA {tables.schema} TO role"
            )
    return StartError("The inbox cannot be used:", [problem])
