"""``flask events send``: deliver signed samples to a running service."""

from __future__ import annotations

import json
import secrets
import time
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict, Unpack
from urllib.parse import urlsplit

import click
from flask.cli import with_appcontext

from app.cli import dev_server
from app.cli.dev_server import STRIPE
from app.cli.inbox_errors import explained
from app.cli.output import say
from app.services import services
from app.stripe_api.catalog import Kind, kind_of
from app.stripe_api.destinations import WEBHOOK_PATH
from app.text import printable
from app.web.listen import local_url
from devkit import samples
from devkit.cli import events_send_stand_in as stand_in
from devkit.cli.events_send_options import check_options, read_fields, read_url
from devkit.http_client import Answer, post

if TYPE_CHECKING:
    from collections.abc import Iterator

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


class Options(TypedDict):
    """The options of ``send`` except ``--url``."""

    times: int
    duplicate: bool
    context: str | None
    livemode: bool | None
    fields: dict[str, Any]
    redeliver: str | None
    snapshot_event: str | None
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
    help="Set a field of the object: at the stand-in, or in a snapshot event. VALUE is JSON, or"
    " else text. You can give it several times.",
)
@click.option("--redeliver", metavar="ID", help="Deliver an event of the inbox once more.")
@click.option(
    "--snapshot-event",
    metavar="ID",
    help="The snapshot event of the same action, which the thin event names at the stand-in.",
)
@click.option("--lost", is_flag=True, help="Do not deliver: the event exists at the stand-in only.")
@click.option("--forge", is_flag=True, help="Sign with an unknown secret.")
@click.option("--stale", is_flag=True, help="Sign with a time ten minutes ago.")
@click.option("--unknown", is_flag=True, help="Allow a TYPE that the SDK does not know.")
def send(event_type: str | None, url: str | None, **options: Unpack[Options]) -> None:
    """Deliver sample events of TYPE, signed with the first secret in STRIPE_WEBHOOK_SECRET.

    TYPE is thin, such as v1.customer.created, or a snapshot, such as customer.created.

    The objects of the events do not exist at Stripe. A callback that fetches them needs the
    stand-in of `make dev`, or another one in STRIPE_API_BASE. The exit status is 1 if a delivery is
    refused, except with --forge and --stale, which expect that.
    """
    check_options(event_type, url, options)
    own = services()
    bodies = list(_bodies(own, event_type, options))
    if options["fields"]:
        stand_in.put_objects(own, bodies, options["fields"])
    if options["snapshot_event"]:
        stand_in.name_snapshot_event(own, bodies[0], options["snapshot_event"])
    if options["lost"]:
        stand_in.lose(own, bodies)
    else:
        _deliver_all(own, url, bodies, options)


def _bodies(own: Services, event_type: str | None, options: Options) -> Iterator[dict[str, Any]]:
    """Yield the bodies to deliver: samples, or an event of the inbox."""
    if event_type is None:
        yield _stored(own, str(options["redeliver"]))
        return
    livemode = own.settings.livemode if options["livemode"] is None else options["livemode"]
    created = datetime.now(UTC) - (LOST_AGE if options["lost"] else timedelta())
    # The account of a snapshot event has a field of its own.
    of_account = "context" if kind_of(event_type) is Kind.THIN else "account"
    for _ in range(options["times"]):
        try:
            yield samples.body(
                event_type,
                livemode=livemode,
                created=created,
                unknown=options["unknown"],
                **{of_account: options["context"]},
            )
        except samples.UnknownEventTypeError as error:
            nearest = f"; nearest: {', '.join(error.nearest)}" if error.nearest else ""
            raise click.BadParameter(
                f"{error}{nearest}. To send it anyway, add --unknown", param_hint="TYPE"
            ) from None


def _stored(own: Services, event_id: str) -> dict[str, Any]:
    """Return the body of an event in the inbox."""
    with explained():
        event = own.inbox.administration.find(event_id)
    if event is None:
        raise click.ClickException(f"The inbox has no event {printable(event_id)}.")
    if event.erased_at is not None:
        raise click.ClickException(f"The body of {event_id} was erased.")
    body: dict[str, Any] = json.loads(event.body)
    return body


def _deliver_all(
    own: Services, url: str | None, bodies: list[dict[str, Any]], options: Options
) -> None:
    """Deliver and print a row for each delivery. Raises ``ClickException`` if one was refused."""
    target = url or _target(own.settings)
    if url is None:
        say(f"Delivering to {target}", err=True)
    refused: Answer | None = None
    for number, delivery in enumerate(_deliveries(own, bodies, options)):
        with stand_in.answering(target, START):
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
    own: Services, bodies: list[dict[str, Any]], options: Options
) -> Iterator[Delivery]:
    """Yield signed deliveries. A duplicate is the same body with a new signature."""
    forged = f"whsec_forged_{secrets.token_hex(8)}"
    secret = forged if options["forge"] else own.settings.stripe_webhook_secrets[0]
    timestamp = int(time.time()) - STALE_SECONDS if options["stale"] else None
    for body in bodies:
        raw = samples.encode(body)
        for _ in range(2 if options["duplicate"] else 1):
            signature = samples.sign(raw, secret, timestamp)
            yield Delivery(body["id"], body["type"], raw, signature)


def _advice(refused: Answer) -> str:
    """Return what to do about a refused delivery."""
    if refused.outcome == MISMATCH:
        return RESTART
    return REFUSED.get(refused.status, f"The delivery was answered {refused.status}.")


def _print_row(widths: tuple[int, int], *cells: str) -> None:
    event_id, event_type, status, milliseconds, outcome = cells
    row = f"{event_id:<{widths[0]}}  {event_type:<{widths[1]}}  {status:<6}  {milliseconds:>9}"
    say(f"{row}  {outcome}")
