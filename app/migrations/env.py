"""Alembic's entry: runs the migrations on the connection that ``app.inbox`` hands over."""

from __future__ import annotations

from alembic import context

from app.inbox.sql.revisions import versions

# SQLite's DDL is transactional if the transaction is begun explicitly, as it is here. Alembic
# assumes that it is not, so a killed start would leave half a migration.
context.configure(
    connection=context.config.attributes["connection"],
    transactional_ddl=True,
    version_table=versions.name,
)
with context.begin_transaction():
    context.run_migrations()
