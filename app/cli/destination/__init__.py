"""``flask destination``: Stripe's event destinations beside the code, a module for each command."""

from __future__ import annotations

from flask.cli import AppGroup

from app.cli.destination.create import create
from app.cli.destination.list_show import check, list_destinations
from app.cli.destination.sync import sync

destination = AppGroup(
    "destination",
    help="Compare Stripe's event destinations with the handlers, and bring them in line.",
    epilog=(
        "Exit status: 0 done, 1 the destination differs or nothing was changed, 2 a wrong option,"
        " 3 Stripe's API did not do it."
    ),
)
for _command in (check, create, list_destinations, sync):
    destination.add_command(_command)
