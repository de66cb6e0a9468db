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
from devkit import samples

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.settings import Settings

#: Seconds to wait for an answer: an inline callback may take its time.
ANSWER_SECONDS = 60
#: Seconds of age of a stale delivery. The service accepts 300.
STALE_SECONDS = 600
#: What to say of a 500, once.
FAILED = (
    "A callback failed; the service's log says why. The objects of samples do not exist at Stripe:"
    " a callback that fetches them needs the stand-in of `make dev`, or another one that"
    " STRIPE_API_BASE points at."
)
#: What Stripe sends with each delivery, but for the signature.
HEADERS = {
    "Content-Type": "application/json; charset=utf-8",
    "User-Agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
}


class Delivery(NamedTuple):
    """One POST that is to be made: the event's id, the body, and its ``Stripe-Signature``."""

    event_id: str
    body: bytes
    signature: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for a delivery. ``outcome`` is the error's sentence if it was refused."""

    status: int
    outcome: str
    milliseconds: float


class Options(TypedDict):
    """What ``send`` is asked to do: one key for each of its options, but ``--url``."""

    times: int
    duplicate: bool
    context: str | None
    livemode: bool | None
    forge: bool
    stale: bool
    unknown: bool


def post(url: str, body: bytes, signature: str) -> Answer:
    """Deliver ``body`` to ``url`` as Stripe does, and wait for the answer.

    ``http.client`` does nothing but this: it follows no redirect, repeats nothing, takes every
    status as an answer, and never sends what is meant for this machine to a proxy. Raises
    ``OSError`` or ``HTTPException`` when there is no answer.
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
    """Read the outcome, or the error, out of an answer of this service's."""
    try:
        answer = json.loads(content)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        return "no JSON: is this the service's /webhook?"
    return str(answer.get("outcome") or answer.get("error"))


def _url(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """Refuse what is no URL before anything is sent."""
    if value and not value.startswith(("http://", "https://")):
        raise click.BadParameter(f"{value!r} is no URL like http://127.0.0.1:4242/webhook")
    return value


@click.command("send")
@with_appcontext
@click.argument("event_type", metavar="TYPE")
@click.option("--url", callback=_url, help="Where to. [default: /webhook on this machine's PORT]")
@click.option("--times", default=1, type=click.IntRange(min=1), help="How many events.")
@click.option("--duplicate", is_flag=True, help="Deliver each event twice.")
@click.option("--context", metavar="ACCT", help="The account that the event is about.")
@click.option("--live/--test", "livemode", default=None, help="[default: as STRIPE_API_KEY]")
@click.option("--forge", is_flag=True, help="Sign with a secret that the service does not have.")
@click.option("--stale", is_flag=True, help="Sign as of ten minutes ago.")
@click.option("--unknown", is_flag=True, help="Allow a TYPE that the SDK does not know.")
def send(event_type: str, url: str | None, **options: Unpack[Options]) -> None:
    """Deliver sample events of TYPE, signed with the first of STRIPE_WEBHOOK_SECRET.

    The objects that the events name do not exist at Stripe. A callback that fetches them needs
    the stand-in of `make dev`, or another one that STRIPE_API_BASE points at.
    """
    settings = services().settings
    failed = False
    target = url or f"http://127.0.0.1:{settings.port}/webhook"
    for number, (event_id, body, signature) in enumerate(
        _deliveries(settings, event_type, options)
    ):
        answer = _post(target, body, signature)
        widths = len(event_id), len(event_type)
        if number == 0:  # not before: nothing may listen there
            _print_row(widths, "event id", "type", "status", "answer ms", "outcome")
        milliseconds = f"{answer.milliseconds:.1f}"
        _print_row(widths, event_id, event_type, str(answer.status), milliseconds, answer.outcome)
        failed = failed or answer.status == HTTPStatus.INTERNAL_SERVER_ERROR
    if failed:
        raise click.ClickException(FAILED)


def _deliveries(settings: Settings, event_type: str, options: Options) -> Iterator[Delivery]:
    """Make the samples and sign them. A duplicate is the same body, signed once more."""
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
            f"{error}{nearest}. Send it all the same with --unknown", param_hint="TYPE"
        ) from None


def _forged_secret() -> str:
    return f"whsec_forged_{secrets.token_hex(8)}"


def _post(url: str, body: bytes, signature: str) -> Answer:
    """Deliver, and put into words why there was no answer."""
    try:
        return post(url, body, signature)
    except ConnectionRefusedError:
        raise click.ClickException(
            f"Nothing listens at {url}. Start the service with `make run`, or name its address"
            " with --url."
        ) from None
    except (OSError, HTTPException, ValueError) as error:
        raise click.ClickException(
            printable(f"{url} did not answer: {str(error) or type(error).__name__}")
        ) from None


def _print_row(widths: tuple[int, int], *cells: str) -> None:
    event_id, event_type, status, milliseconds, outcome = cells
    row = f"{event_id:<{widths[0]}}  {event_type:<{widths[1]}}  {status:<6}  {milliseconds:>9}"
    say(f"{row}  {outcome}")
