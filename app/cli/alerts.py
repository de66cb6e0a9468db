"""``flask alerts``: the raised alerts, and a test message."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click
from flask.cli import AppGroup, with_appcontext

from app.alerts import texts
from app.alerts.evaluation import new_message_id
from app.alerts.post import Poster
from app.cli.inbox_errors import explained
from app.cli.output import iso_time, json_option, plural, say, say_json, say_table
from app.services import services

if TYPE_CHECKING:
    from app.inbox.alerts import Alert

HEADINGS = ("state", "since", "alert", "group", "count", "text")

alerts = AppGroup("alerts", help="Show the alerts, and test the connection to their receiver.")


@alerts.command("test")
@with_appcontext
def test() -> None:
    """Send one test message to ALERT_URL, and print the answer.

    The exit status is 1 if the receiver does not take it.
    """
    settings = services().settings
    if settings.alert_url is None:
        raise click.ClickException("ALERT_URL is not set, so alerts are only logged.")
    host = urlsplit(settings.alert_url).netloc
    body = texts.Texts(settings.public_url, settings.livemode).test(time.time())
    poster = Poster(settings.alert_url, settings.alert_secret)
    answer = poster.post(new_message_id(), texts.encoded(body))
    if not answer.is_taken:
        raise click.ClickException(
            f"{host} did not take the test message: {answer.text}. Check ALERT_URL."
        )
    signed = "signed" if settings.alert_secret else "not signed, since ALERT_SECRET is not set"
    say(f"{host} took the test message, which is {signed}: {answer.text}")


@alerts.command("list")
@json_option
@with_appcontext
def list_alerts(*, as_json: bool) -> None:
    """List the alerts that are raised, and those that ended within a week."""
    with explained():
        found = services().inbox.alerts.latest()
        waiting, tries = services().inbox.alerts.unsent()
    if as_json:
        say_json({"alerts": [as_object(each) for each in found], "unsent_messages": waiting})
        return
    if found:
        say_table([_cells(each) for each in found], headings=HEADINGS)
    else:
        say("No alert was raised within a week.")
    if waiting:
        say(f"{plural(waiting, 'message')} could not be sent yet, after {tries} tries.")


def as_object(alert: Alert) -> dict[str, Any]:
    """Return the fields of an alert for JSON."""
    return {
        "alert": alert.alert,
        "group": alert.group,
        "state": _state(alert),
        "since": iso_time(alert.since),
        "resolved_at": None if alert.resolved_at is None else iso_time(alert.resolved_at),
        "count": alert.number,
        "text": alert.text,
        "runbook": texts.runbook(alert.alert),
    }


def _state(alert: Alert) -> str:
    return "raised" if alert.is_raised else "resolved"


def _cells(alert: Alert) -> tuple[str, ...]:
    since = iso_time(alert.since, "seconds")
    return _state(alert), since, alert.alert, alert.group or "", str(alert.number), alert.text
