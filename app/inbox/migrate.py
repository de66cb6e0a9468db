"""Brings the tables of the inbox to this version, with Alembic."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from app.errors import StartError

FOLDER = Path(__file__).parent.parent / "migrations"


def upgrade(connection: sa.Connection) -> None:
    """Run the migrations that are missing, in the ``connection``'s transaction.

    Raises ``StartError`` when the database has a revision that this version does not know.
    """
    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    _refuse_unknown_revision(connection, ScriptDirectory.from_config(config))
    command.upgrade(config, "head")


def _refuse_unknown_revision(connection: sa.Connection, scripts: ScriptDirectory) -> None:
    current = MigrationContext.configure(connection).get_current_revision()
    known = {script.revision for script in scripts.walk_revisions()}
    if current is not None and current not in known:
        raise StartError(
            "The inbox cannot be used:",
            [
                f"DATABASE_URL names an inbox of revision {current}, made by a newer version of"
                " this service. Deploy that version, or restore the database from before it"
            ],
        )
