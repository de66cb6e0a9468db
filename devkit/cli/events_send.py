"""``flask events send``: deliver signed samples to a running service."""

from __future__ import annotations

import json
import secrets
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from http import HTTPStatus
from http.client import HTTPException
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict, Unpack
from urllib.parse import urlsplit

import click
from flask.cli import with_appcontext

from app.cli import dev_server
from app.cli.dev_server import STRIPE
from app.cli.hints import flask_command
from app.cli.inbox_errors import explained
from app.cli.output import say
from app.services import services
from app.stripe_api.destinations import WEBHOOK_PATH
from app.text import printable
from app.web.listen import local_url
from devkit import placeholders, samples
from devkit.cli.events_send_options import check_options, read_fields, read_url
from devkit.http_client import Answer, post, put

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from app.services import Services
    from app.settings import Settings

#: The age of a stale signature in seconds. The service accepts 300.
STALE_SECONDS = 600
#: The age of a lost event. Reconciliation leaves out the last 5 minutes, and begins 15 minutes back
#: if it has run just before.
LOST_AGE = timedelta(minutes=10)
#: The errors after a refused delivery, by status, and after a signature that does not match.
REFUSED = {
    400: "The service refused the delivery.",
    404: "This is not the path of the webhook. Give the whole URL with --url: it ends in /webhook.",
    409: "The event is running.",
    413: "The body is larger than MAX_BODY_BYTES of the service.",
    500: (
        "A callback failed; see the log of the service. The objects of samples do not exist at"
        " Stripe: a callback that fetches them needs the stand-in of `make dev`, or another one in"
        " STRIPE_API_BASE."
    ),
    503: "The service is not available; see its output.",
}
MISMATCH = "the signature does not match the body"
RESTART = (
    "The running service does not have the signing secret of this command, the first one in"
    " STRIPE_WEBHOOK_SECRET. A service reads .env only when it starts: restart it."
)
START = "Start it with `make run`, or give its address with --url."
NO_STAND_IN = (
    "--field and --lost put an object into the stand-in for Stripe's API. Start it with `make dev`,"
    " or name another one in STRIPE_API_BASE."
)


class Options(TypedDict):
    """The options of ``send`` except ``--url``."""

    times: int
    duplicate: bool
    context: str | None
    livemode: bool | None
    fields: dict[str, Any]
    redeliver: str | None
    lost: bool
    forge: bool
    stale: bool
    unknown: bool


class Delivery(NamedTuple):
    """One POST: the id and the type of the event, the body, and its ``Stripe-Signature``."""

    event_id: str
    event_type: str
    body: bytes
    signature: str


@click.command("send")
@with_appcontext
@click.argument("event_type", metavar="[TYPE]", required=False)
@click.option(
    "--url",
    callback=read_url,
    help="The target. [default: `make dev` in this folder, or /webhook on PORT of this machine]",
)
@click.option("--times", default=1, type=click.IntRange(min=1), help="The number of events.")
@click.option("--duplicate", is_flag=True, help="Deliver each event twice.")
@click.option("--context", metavar="ACCT", help="The account of the event.")
@click.option("--live/--test", "livemode", default=None, help="[default: as STRIPE_API_KEY]")
@click.option(
    "--field",
    "fields",
    multiple=True,
    metavar="NAME=VALUE",
    callback=read_fields,
    help="Set a field of the object at the stand-in. VALUE is JSON, or else text. You can give it"
    " several times.",
)
@click.option("--redeliver", metavar="ID", help="Deliver an event of the inbox once more.")
@click.option("--lost", is_flag=True, help="Do not deliver: the event exists at the stand-in only.")
@click.option("--forge", is_flag=True, help="Sign with an unknown secret.")
@click.option("--stale", is_flag=True, help="Sign with a time ten minutes ago.")
@click.option("--unknown", is_flag=True, help="Allow a TYPE that the SDK does not know.")
def send(event_type: str | None, url: str | None, **options: Unpack[Options]) -> None:
    """Deliver sample events of TYPE, signed with the first secret in STRIPE_WEBHOOK_SECRET.

    The objects of the events do not exist at Stripe. A callback that fetches them needs the
    stand-in of `make dev`, or another one in STRIPE_API_BASE. The exit status is 1 if a delivery is
    refused, except with --forge and --stale, which expect that.
    """
    check_options(event_type, url, options)
    own = services()
    notifications = list(_notifications(own, event_type, options))
    if options["fields"]:
        _put_objects(own, notifications, options["fields"])
    if options["lost"]:
        _lose(own, notifications)
    else:
        _deliver_all(own, url, notifications, options)


def _notifications(
    own: Services, event_type: str | None, options: Options
) -> Iterator[dict[str, Any]]:
    """Yield the notifications: samples, or one of the inbox."""
    if event_type is None:
        yield _stored(own, str(options["redeliver"]))
        return
    livemode = own.settings.livemode if options["livemode"] is None else options["livemode"]
    created = datetime.now(UTC) - (LOST_AGE if options["lost"] else timedelta())
    for _ in range(options["times"]):
        try:
            yield samples.notification(
                event_type,
                context=options["context"],
                livemode=livemode,
                created=created,
                unknown=options["unknown"],
            )
        except samples.UnknownEventTypeError as error:
            nearest = f"; nearest: {', '.join(error.nearest)}" if error.nearest else ""
            raise click.BadParameter(
                f"{error}{nearest}. To send it anyway, add --unknown", param_hint="TYPE"
            ) from None


def _stored(own: Services, event_id: str) -> dict[str, Any]:
    """Return the notification of an event in the inbox."""
    with explained():
        event = own.inbox.administration.find(event_id)
    if event is None:
        raise click.ClickException(f"The inbox has no event {printable(event_id)}.")
    if event.erased_at is not None:
        raise click.ClickException(f"The body of {event_id} was erased.")
    notification: dict[str, Any] = json.loads(event.body)
    return notification


def _put_objects(
    own: Services, notifications: list[dict[str, Any]], fields: Mapping[str, Any]
) -> None:
    """Let the stand-in serve the related objects with ``fields``."""
    for notification in notifications:
        related = notification.get("related_object")
        if related is None:
            raise click.UsageError(f"{notification['type']} names no object that has fields.")
        known = placeholders.api_object(notification)
        unknown = [name for name in fields if name not in known]
        if unknown:
            near = ", ".join(get_close_matches(unknown[0], known)) or ", ".join(known)
            raise click.UsageError(
                f"The object {related['type']!r} has no field {unknown[0]!r}; nearest: {near}"
            )
        _put(own, related["url"], {**known, **fields})


def _lose(own: Services, notifications: list[dict[str, Any]]) -> None:
    """Let the stand-in serve and list the events, and print how to find them."""
    event_type, context = notifications[0]["type"], notifications[0].get("context")
    if event_type not in own.reconciler.types:
        raise click.ClickException(
            f"{event_type} has no handler module, and reconciliation looks only for types with one."
            f" Write it: make handler TYPE={event_type}"
        )
    for notification in notifications:
        path = f"/v2/core/events/{notification['id']}"
        _put(own, path, placeholders.event(notification))
        say(f"{notification['id']}  {event_type}  exists at the stand-in, and is not delivered")
    account = ["--account", context] if context else []
    say(f"Find what was not delivered: {flask_command('events', 'reconcile', *account)}")


def _put(own: Services, path: str, api_object: Mapping[str, Any]) -> None:
    """Put an object into the stand-in. Raises ``ClickException`` unless it accepts the object."""
    base = own.settings.stripe_api_base
    if base is None:
        raise click.ClickException(NO_STAND_IN)
    with _answering(base, "Start it with `make dev`, or correct STRIPE_API_BASE."):
        status = put(base + path, api_object)
    if status != HTTPStatus.CREATED:
        raise click.ClickException(
            f"{base} is no stand-in of the devkit: it answered {status} to PUT {path}."
        )


def _deliver_all(
    own: Services, url: str | None, notifications: list[dict[str, Any]], options: Options
) -> None:
    """Deliver and print a row for each delivery. Raises ``ClickException`` if one was refused."""
    target = url or _target(own.settings)
    if url is None:
        say(f"Delivering to {target}", err=True)
    refused: Answer | None = None
    for number, delivery in enumerate(_deliveries(own, notifications, options)):
        with _answering(target, START):
            answer = post(target, delivery.body, delivery.signature)
        widths = len(delivery.event_id), len(delivery.event_type)
        if number == 0:  # after the first answer: without one there is no table
            _print_row(widths, "event id", "type", "status", "answer ms", "outcome")
        milliseconds, status = f"{answer.milliseconds:.1f}", str(answer.status)
        _print_row(widths, *delivery[:2], status, milliseconds, answer.outcome)
        if answer.status >= HTTPStatus.BAD_REQUEST:
            refused = answer
    if refused and not (options["forge"] or options["stale"]):
        raise click.ClickException(_advice(refused))


def _target(settings: Settings) -> str:
    """Return the webhook of a running ``make dev``, or the one on PORT of this machine.

    ``make dev`` is the target if the command uses its API, and the environment names no other port.
    """
    own = f"{local_url(settings)}{WEBHOOK_PATH}"
    server = dev_server.running()
    if server is None or (server.api or STRIPE) != (settings.stripe_api_base or STRIPE):
        return own
    is_other_port = urlsplit(server.webhook).port != settings.port
    return own if is_other_port and "PORT" in settings.origin.environment else server.webhook


def _deliveries(
    own: Services, notifications: list[dict[str, Any]], options: Options
) -> Iterator[Delivery]:
    """Yield signed deliveries. A duplicate is the same body with a new signature."""
    forged = f"whsec_forged_{secrets.token_hex(8)}"
    secret = forged if options["forge"] else own.settings.stripe_webhook_secrets[0]
    timestamp = int(time.time()) - STALE_SECONDS if options["stale"] else None
    for notification in notifications:
        body = samples.encode(notification)
        for _ in range(2 if options["duplicate"] else 1):
            signature = samples.sign(body, secret, timestamp)
            yield Delivery(notification["id"], notification["type"], body, signature)


def _advice(refused: Answer) -> str:
    """Return what to do about a refused delivery."""
    if refused.outcome == MISMATCH:
        return RESTART
    return REFUSED.get(refused.status, f"The delivery was answered {refused.status}.")


@contextmanager
def _answering(url: str, remedy: str) -> Iterator[None]:
    """Turn a missing answer into a ``ClickException``. ``remedy`` is for a port that is closed."""
    try:
        yield
    except ConnectionRefusedError:
        raise click.ClickException(f"No service listens at {url}. {remedy}") from None
    except (OSError, HTTPException, ValueError) as error:
        raise click.ClickException(
            printable(f"{url} did not answer: {str(error) or type(error).__name__}")
        ) from None


def _print_row(widths: tuple[int, int], *cells: str) -> None:
    event_id, event_type, status, milliseconds, outcome = cells
    row = f"{event_id:<{widths[0]}}  {event_type:<{widths[1]}}  {status:<6}  {milliseconds:>9}"
    say(f"{row}  {outcome}")
