"""The output of the demo: tables, and the verdict."""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING, Any

import click

from app.cli.hints import program
from app.cli.output import say, say_table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from app.inbox import Event
    from devkit.demo.script import Delivery
    from devkit.http_client import Answer
    from devkit.stripe_api import StripeApi

#: Characters of an answer in a table.
ANSWER_WIDTH = 38


def show_answers(deliveries: list[Delivery], answers: list[Answer]) -> None:
    """Print each delivery with its answer."""
    rows = [
        (delivery.what, str(answer.status), _shorten(answer.outcome), delivery.why)
        for delivery, answer in zip(deliveries, answers, strict=True)
    ]
    _show("What was delivered", ("sent", "status", "answer", "because"), rows)


def show_inbox(events: list[Event]) -> None:
    """Print the events in the inbox."""
    rows = [
        (each.id, each.type, each.state, str(each.attempt), str(each.deliveries), each.outcome)
        for each in events
    ]
    headings = ("event id", "type", "state", "attempts", "deliveries", "outcome")
    _show("What the inbox holds", headings, rows)


def show_asked(api: StripeApi) -> None:
    """Print the requests of the callbacks to Stripe's API."""
    rows = [
        (f"{asked.method} {asked.path}", asked.request_trigger, asked.stripe_context)
        for asked in api.asked
    ]
    headings = ("request", "Stripe-Request-Trigger", "Stripe-Context")
    _show("What the callbacks asked of Stripe's API", headings, rows)


def show_log(written: str) -> None:
    """Print the log lines of callbacks, and of the exceptions that they raised."""
    lines = [json.loads(line) for line in written.splitlines() if line.startswith("{")]
    rows = [
        (line["level"], line["event"], line["event_id"], _details(line))
        for line in lines
        if "event_id" in line and line["event"] != "delivery"
    ]
    _show("What the callbacks logged", ("level", "event", "event id", "details"), rows)


def _details(line: dict[str, Any]) -> str:
    """Return the other fields of a log line as text. An exception is cut to its last line."""
    own = ("level", "event", "timestamp", "event_id", "event_type")
    fields = {name: value for name, value in line.items() if name not in own}
    if "exception" in fields:
        fields["exception"] = fields["exception"].splitlines()[-1]
    return " ".join(f"{name}={value}" for name, value in fields.items())


def _show(title: str, headings: tuple[str, ...], rows: Iterable[tuple[str | None, ...]]) -> None:
    click.secho(title, bold=True)
    say_table([headings, *(tuple(cell or "-" for cell in row) for row in rows)], indent=2)
    say()


def _shorten(text: str) -> str:
    return textwrap.shorten(text, ANSWER_WIDTH, placeholder=" ...")


def judge(problems: list[str]) -> int:
    """Print the problems, or that there are none. Returns the exit status."""
    if problems:
        click.echo("\n  ".join(["Not as expected:", *problems]), err=True)
        return 1
    say("All of it as expected. Next: `make handler TYPE=v1.customer.created`, `make dev`, and")
    say(f"from another terminal `{program('flask')} events send v1.customer.created`.")
    return 0
