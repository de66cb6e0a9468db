"""``flask migrate``: commands for the move from snapshot to thin events."""

from __future__ import annotations

from flask.cli import AppGroup

from app.cli.migrate.finish import finish
from app.cli.migrate.plan import mirror, plan
from app.cli.migrate.status import status

migrate = AppGroup(
    "migrate",
    help="Move from snapshot to thin events. docs/migrate-to-thin.md has all steps.",
    epilog=(
        "Exit status: 0 done, 1 nothing was changed or a type is not ready, 2 a wrong option,"
        " 3 Stripe's API failed."
    ),
)
for _command in (finish, mirror, plan, status):
    migrate.add_command(_command)
