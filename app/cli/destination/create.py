"""``flask destination create``: a destination with exactly the types that are handled."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click
import stripe
from flask.cli import with_appcontext

from app.cli.destination.compare import WEBHOOK_PATH, handled_types, mode
from app.cli.output import say, say_lines
from app.cli.stripe_errors import StripeFailedError, checked, explained
from app.factory import make_client
from app.services import services

if TYPE_CHECKING:
    from stripe.params.v2.core import EventDestinationCreateParams
    from stripe.v2.core import EventDestination

    from app.settings import Settings

#: What the SDK raises when Stripe may have done it all the same.
UNDECIDED = (stripe.APIConnectionError, stripe.APIError)
NOTHING_HANDLED = (
    "No event type has a handler module, and a destination needs at least one type. Write a"
    " handler first"
)


def _url(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """Refuse what is no URL before anything is asked."""
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise click.BadParameter(f"{value!r} is no URL like https://your.host/webhook")
    return value


@click.command("create")
@click.option("--url", required=True, callback=_url, help="Where Stripe is to send to.")
@click.option("--name", help="What the dashboard calls it. [default: the host of the URL]")
@click.option(
    "--connected-accounts",
    is_flag=True,
    help="Bring the events of connected accounts. [default: those of the key's own account]",
)
@with_appcontext
def create(url: str, name: str | None, *, connected_accounts: bool) -> None:
    """Create a thin destination with the handled event types, and show its signing secret.

    Stripe shows the secret this once and never again.
    """
    settings, types = services().settings, sorted(handled_types(services().registry))
    if not types:
        raise click.ClickException(f"{NOTHING_HANDLED}.")
    if settings.livemode and not url.startswith("https:"):
        raise click.ClickException("STRIPE_API_KEY is a live key, and live mode needs https.")
    params: EventDestinationCreateParams = {
        "name": name or urlsplit(url).netloc,
        "type": "webhook_endpoint",
        "event_payload": "thin",
        "enabled_events": types,
        "events_from": ["@accounts" if connected_accounts else "@self"],
        "webhook_endpoint": {"url": url},
        "include": ["webhook_endpoint.signing_secret", "webhook_endpoint.url"],
    }
    _show(_create(settings, params), url)


def _create(settings: Settings, params: EventDestinationCreateParams) -> EventDestination:
    """Create it. Where it is not known whether that was done, the error says how to find out."""
    try:
        with explained():
            return checked(make_client(settings).v2.core.event_destinations.create(params))
    except StripeFailedError as error:
        if not isinstance(error.__cause__, UNDECIDED):
            raise
        raise StripeFailedError(
            f"{error.message}. The destination may be there all the same: look with"
            " `flask destination list` before you try again. Its secret is lost then, so delete it"
        ) from error


def _show(made: EventDestination, url: str) -> None:
    with explained():
        secret = made.webhook_endpoint and made.webhook_endpoint.signing_secret
        events_from, types = ", ".join(made.events_from or []), made.enabled_events
        say(f"Created {made.id} in {mode(live=made.livemode)} mode.")
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
        raise click.ClickException("Stripe did not tell its signing secret. See the dashboard.")
    say_lines(
        "\nIts signing secret, which Stripe never shows again. In .env, put it behind the secrets"
        " that are\nthere (... stands for them), with a comma, and restart the service:\n"
        f"\n  STRIPE_WEBHOOK_SECRET=...,{secret}\n"
        "\nA secret that no destination signs with, such as the random one of `make run`, can go."
    )
