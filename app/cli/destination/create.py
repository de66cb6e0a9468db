"""``flask destination create``: create a destination with exactly the handled types."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click
import stripe
from flask.cli import with_appcontext

from app.cli.audit_log import note
from app.cli.hints import hint
from app.cli.output import mode, say, say_lines
from app.cli.stripe_errors import StripeFailedError, checked, explained
from app.factory import make_client
from app.services import services
from app.stripe_api.catalog import Kind
from app.stripe_api.destination_sync import new_destination, nothing_handled
from app.stripe_api.destinations import WEBHOOK_PATH, payload_of

if TYPE_CHECKING:
    from stripe.params.v2.core import EventDestinationCreateParams
    from stripe.v2.core import EventDestination

    from app.settings import Settings

#: Errors after which Stripe may have created the destination.
UNDECIDED = (stripe.APIConnectionError, stripe.APIError)


def _url(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """Refuse a value that is no URL before any request."""
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise click.BadParameter(f"{value!r} is no URL like https://your.host/webhook")
    return value


@click.command("create")
@click.option("--url", required=True, callback=_url, help="The URL of the service.")
@click.option("--name", help="Its name in the dashboard. [default: the host of the URL]")
@click.option(
    "--connected-accounts",
    is_flag=True,
    help="Send the events of connected accounts. [default: of the account of the key]",
)
@click.option(
    "--payload",
    type=click.Choice([kind.value for kind in Kind]),
    default=Kind.THIN.value,
    show_default=True,
    help="Its payload style. It gets the handled types of this style.",
)
@click.option(
    "--api-version",
    metavar="VERSION",
    help="The API version of snapshot events. [default: that of the SDK]",
)
@with_appcontext
def create(
    url: str, name: str | None, payload: str, api_version: str | None, *, connected_accounts: bool
) -> None:
    """Create a destination with the handled event types, and show its signing secret.

    Stripe shows the secret only once. The payload style and the API version cannot be changed.
    """
    kind = Kind(payload)
    types = services().registry.types_of(kind)
    if api_version and kind is Kind.THIN:
        raise click.UsageError("Thin events have no API version: --api-version needs snapshot.")
    if not types:
        raise click.ClickException(f"{nothing_handled(kind)}.")
    events_from = ["@accounts" if connected_accounts else "@self"]
    params = new_destination(
        kind, types, url, name=name, events_from=events_from, api_version=api_version
    )
    create_and_show(params, url)


def create_and_show(params: EventDestinationCreateParams, url: str) -> None:
    """Create the destination of these ``params``, which sends to ``url``. Shows its secret."""
    settings = services().settings
    if settings.livemode and not url.startswith("https:"):
        raise click.ClickException("STRIPE_API_KEY is a live key, and live mode needs https.")
    _show(_create(settings, params), url)


def _create(settings: Settings, params: EventDestinationCreateParams) -> EventDestination:
    """Create it. If the result is unknown, the error says how to find it out."""
    try:
        with explained():
            return checked(make_client(settings).v2.core.event_destinations.create(params))
    except StripeFailedError as error:
        if not isinstance(error.__cause__, UNDECIDED):
            raise
        raise StripeFailedError(
            f"{error.message}. The destination may exist nevertheless: run"
            f" {hint('destination', 'list')} before you try again. If it does, delete it, because"
            " its secret is lost"
        ) from error


def _show(created: EventDestination, url: str) -> None:
    with explained():
        secret = created.webhook_endpoint and created.webhook_endpoint.signing_secret
        events_from, types = ", ".join(created.events_from or []), created.enabled_events
        note("create_destination", created.id)
        say(f"Created {created.id} in {mode(live=created.livemode)} mode.")
        say(f"  payload      {payload_of(created)}")
        say(f"  sends to     {url}")
        say(f"  events from  {events_from}")
        say(f"  event types  {', '.join(types)}")
    if not urlsplit(url).path.endswith(WEBHOOK_PATH):
        say()
        say(
            f"The service takes deliveries at {WEBHOOK_PATH}: this URL needs a proxy that"
            " rewrites the path."
        )
    if not secret:
        raise click.ClickException(
            "Stripe did not return its signing secret. Copy the secret from the dashboard."
        )
    say_lines(
        "\nThis is its signing secret, which Stripe never shows again. In .env, add it after your"
        " present\nsecrets (shown as ...), separated by a comma, and restart the service:\n"
        f"\n  STRIPE_WEBHOOK_SECRET=...,{secret}\n"
        "\nRemove secrets that no destination signs with, such as the random one of `make run`."
    )
