"""``make demo``: the real service at work, without a Stripe account and without a network.

The service runs under gunicorn, as in production, with the shipped handler modules and a stand-in
for Stripe's API. Deliveries are signed as Stripe signs them. The demo compares each answer and each
recorded event with what it expects, and exits with status 1 if one differs.
"""

from __future__ import annotations

import signal
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

import click

from app import log
from devkit.demo.report import judge, show_answers, show_asked, show_inbox, show_log
from devkit.demo.script import RECORDED, SECRET, Delivery, script, wrong_answers, wrong_events
from devkit.demo.service import PACKAGE, read_inbox, service, write_handlers
from devkit.processes import END_SIGNALS, ROOT, end, ignore_end_signals
from devkit.stripe_api import StripeApi

__all__ = [
    "PACKAGE",
    "RECORDED",
    "ROOT",
    "SECRET",
    "Delivery",
    "end",
    "judge",
    "main",
    "read_inbox",
    "script",
    "service",
    "write_handlers",
    "wrong_answers",
    "wrong_events",
]


def main() -> int:
    """Run the demo and print what happened. Returns the exit status."""
    for number in END_SIGNALS:
        signal.signal(number, _leave)
    log.configure("error", "console")
    with tempfile.TemporaryDirectory() as name, StripeApi().serve() as api:
        folder = Path(name)
        write_handlers(folder)
        click.echo("Starting the service under gunicorn, and a stand-in for Stripe's API ...\n")
        deliveries = script(api)
        with service(folder, api.url) as url:
            answers = [delivery.post(url) for delivery in deliveries]
        events = read_inbox(folder)
        show_answers(deliveries, answers)
        show_inbox(events)
        show_asked(api)
        show_log((folder / "log").read_text(encoding="utf-8"))
    return judge([*wrong_answers(deliveries, answers), *wrong_events(events)])


def _leave(number: int, _frame: object) -> NoReturn:
    """Exit on a signal. ``SystemExit`` runs all clean-up on its way out of ``main``."""
    ignore_end_signals()
    sys.exit(128 + number)
