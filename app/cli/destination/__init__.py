"""``flask destination``: commands for the event destinations at Stripe."""

from __future__ import annotations

from flask.cli import AppGroup

from app.cli.destination.create import create
from app.cli.destination.list_show import check, list_destinations
from app.cli.destination.sync import sync

destination = AppGroup(
    "destination",
    help="Compare the event destinations at Stripe with the handlers, and update them.",
    epilog=(
        "Exit status: 0 done, 1 the destination differs or nothing was changed, 2 a wrong option,"
        " 3 Stripe's API failed."
    ),
)
for _command in (check, create, list_destinations, sync):
    destination.add_command(_command)
