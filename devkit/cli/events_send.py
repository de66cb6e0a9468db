"""``flask events send``: deliver signed samples to a running service."""

from __future__ import annotations

import json
import secrets
import time
from contextlib import closing
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict, Unpack
from urllib.parse import urlsplit, urlunsplit

import click
from flask.cli import with_appcontext

from app.cli.output import say
from app.services import services
from app.text import printable
from app.web.listen import local_url
from app.web.webhook import WEBHOOK_PATH
from devkit import samples

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.settings import Settings

#: Seconds to wait for an answer: in inline mode it comes after the callback.
ANSWER_SECONDS = 60
#: The age of a stale signature in seconds. The service accepts 300.
STALE_SECONDS = 600
#: The error after a 500.
FAILED = (
    "A callback failed; see the log of the service. The objects of samples do not exist at Stripe:"
    " a callback that fetches them needs the stand-in of `make dev`, or another one in"
    " STRIPE_API_BASE."
)
#: The headers of a delivery by Stripe, without the signature.
HEADERS = {
    "Content-Type": "application/json; charset=utf-8",
    "User-Agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
}


class Delivery(NamedTuple):
    """One POST: the id of the event, the body, and its ``Stripe-Signature``."""

    event_id: str
    body: bytes
    signature: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a delivery. ``outcome`` is the error if it was refused."""

    status: int
    outcome: str
    milliseconds: float


class Options(TypedDict):
    """The options of ``send`` except ``--url``."""

    times: int
    duplicate: bool
    context: str | None
    livemode: bool | None
    forge: bool
    stale: bool
    unknown: bool


def post(url: str, body: bytes, signature: str) -> Answer:
    """Deliver ``body`` to ``url`` as Stripe does, and wait for the answer.

    ``http.client`` follows no redirect, does not retry, returns any status, and uses no proxy.
    Raises ``OSError`` or ``HTTPException`` if there is no answer.
    """
    parts = urlsplit(url)
    connect = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    target = urlunsplit(("", "", parts.path or "/", parts.query, ""))
    begin = time.perf_counter()
    with closing(connect(parts.netloc, timeout=ANSWER_SECONDS)) as connection:
        connection.request("POST", target, body, {**HEADERS, "Stripe-Signature": signature})
        response = connection.getresponse()
        content = response.read()
    return Answer(response.status, _outcome(content), (time.perf_counter() - begin) * 1000)


def _outcome(content: bytes) -> str:
    """Return the outcome or the error in an answer of this service."""
    try:
        answer = json.loads(content)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        return "no JSON: is this the service's /webhook?"
    return str(answer.get("outcome") or answer.get("error"))


def _url(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """Refuse a value that is no URL before any delivery."""
    if value and not value.startswith(("http://", "https://")):
        raise click.BadParameter(f"{value!r} is no URL like http://127.0.0.1:4242/webhook")
    return value


@click.command("send")
@with_appcontext
@click.argument("event_type", metavar="TYPE")
@click.option(
    "--url", callback=_url, help="The target. [default: /webhook on PORT of this machine]"
)
@click.option("--times", default=1, type=click.IntRange(min=1), help="The number of events.")
@click.option("--duplicate", is_flag=True, help="Deliver each event twice.")
@click.option("--context", metavar="ACCT", help="The account of the event.")
@click.option("--live/--test", "livemode", default=None, help="[default: as STRIPE_API_KEY]")
@click.option("--forge", is_flag=True, help="Sign with an unknown secret.")
@click.option("--stale", is_flag=True, help="Sign with a time ten minutes ago.")
@click.option("--unknown", is_flag=True, help="Allow a TYPE that the SDK does not know.")
def send(event_type: str, url: str | None, **options: Unpack[Options]) -> None:
    """Deliver sample events of TYPE, signed with the first secret in STRIPE_WEBHOOK_SECRET.

    The objects of the events do not exist at Stripe. A callback that fetches them needs the
    stand-in of `make dev`, or another one in STRIPE_API_BASE.
    """
    settings = services().settings
    failed = False
    target = url or f"{local_url(settings)}{WEBHOOK_PATH}"
    for number, (event_id, body, signature) in enumerate(
        _deliveries(settings, event_type, options)
    ):
        answer = _post(target, body, signature)
        widths = len(event_id), len(event_type)
        if number == 0:  # after the first answer: without one there is no table
            _print_row(widths, "event id", "type", "status", "answer ms", "outcome")
        milliseconds = f"{answer.milliseconds:.1f}"
        _print_row(widths, event_id, event_type, str(answer.status), milliseconds, answer.outcome)
        failed = failed or answer.status == HTTPStatus.INTERNAL_SERVER_ERROR
    if failed:
        raise click.ClickException(FAILED)


def _deliveries(settings: Settings, event_type: str, options: Options) -> Iterator[Delivery]:
    """Yield signed samples. A duplicate is the same body with a new signature."""
    secret = _forged_secret() if options["forge"] else settings.stripe_webhook_secrets[0]
    timestamp = int(time.time()) - STALE_SECONDS if options["stale"] else None
    for _ in range(options["times"]):
        notification = _sample(settings, event_type, options)
        body = samples.encode(notification)
        for _ in range(2 if options["duplicate"] else 1):
            yield Delivery(notification["id"], body, samples.sign(body, secret, timestamp))


def _sample(settings: Settings, event_type: str, options: Options) -> dict[str, Any]:
    livemode = settings.livemode if options["livemode"] is None else options["livemode"]
    try:
        return samples.notification(
            event_type, context=options["context"], livemode=livemode, unknown=options["unknown"]
        )
    except samples.UnknownEventTypeError as error:
        nearest = f"; nearest: {', '.join(error.nearest)}" if error.nearest else ""
        raise click.BadParameter(
            f"{error}{nearest}. To send it anyway, add --unknown", param_hint="TYPE"
        ) from None


def _forged_secret() -> str:
    return f"whsec_forged_{secrets.token_hex(8)}"


def _post(url: str, body: bytes, signature: str) -> Answer:
    """Deliver. Raises ``ClickException`` with the reason if there is no answer."""
    try:
        return post(url, body, signature)
    except ConnectionRefusedError:
        raise click.ClickException(
            f"No service listens at {url}. Start it with `make run`, or give its address with"
            " --url."
        ) from None
    except (OSError, HTTPException, ValueError) as error:
        raise click.ClickException(
            printable(f"{url} did not answer: {str(error) or type(error).__name__}")
        ) from None


def _print_row(widths: tuple[int, int], *cells: str) -> None:
    event_id, event_type, status, milliseconds, outcome = cells
    row = f"{event_id:<{widths[0]}}  {event_type:<{widths[1]}}  {status:<6}  {milliseconds:>9}"
    say(f"{row}  {outcome}")
