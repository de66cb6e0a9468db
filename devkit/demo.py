"""``make demo``: the real service at work, without a Stripe account and without a network.

The service runs under gunicorn as it does anywhere, with a stand-in for Stripe's API beside it and
the shipped handler modules in place. What is delivered is signed as Stripe signs it. The demo knows
what has to come back and to be recorded, and ends with status 1 when anything else did.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from app import log
from app.inbox import Inbox
from devkit import samples
from devkit.cli.events_send import STALE_SECONDS, Answer, post
from devkit.stripe_api import HOST, StripeApi

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from app.inbox import Event

ROOT = Path(__file__).resolve().parents[1]
SECRET = f"whsec_demo_{secrets.token_hex(16)}"
#: Seconds to wait for the service to be ready, and for it to end: nothing of it is to be kept.
READY_SECONDS = 30.0
END_SECONDS = 5.0
#: Characters that a table shows of an answer.
ANSWER_WIDTH = 38

METER = "v1.billing.meter.error_report_triggered"
CHECKOUT = "v1.checkout.session.completed"
LOST = "v2.core.health.event_generation_failure.resolved"
UNHANDLED = "v1.customer.created"
UNKNOWN = "v2.demo.newer_than_the_sdk"
FAILING = "v1.invoice.paid"

#: The demo's package holds these modules of handlers/, helpers, and one that needs Stripe's API.
SHIPPED = (
    "__init__.py",
    "_*.py",
    "fallback.py",
    "v1_billing_meter_error_report_triggered.py",
    "v1_checkout_session_completed.py",
    "v2_core_health_event_generation_failure_resolved.py",
)
PACKAGE = "demo_handlers"
FAILING_MODULE = '''"""Fetches an invoice, and fails when Stripe's API does not give it."""


def handle(notif, client):
    """Fetch the invoice."""
    notif.fetch_related_object()
'''

#: State, attempts, deliveries and outcome of every event that has to be in the inbox, and no other.
RECORDED = {
    "evt_demo_meter": ("done", 1, 2, "handled"),
    "evt_demo_checkout": ("done", 1, 1, "handled"),
    "evt_demo_lost": ("done", 1, 1, "handled"),
    "evt_demo_unhandled": ("done", 1, 1, "handled"),
    "evt_demo_unknown": ("done", 1, 1, "handled"),
    "evt_demo_live": ("done", 0, 1, "wrong_mode"),
    "evt_demo_failing": ("done", 2, 3, "handled"),
}


@dataclass(frozen=True, slots=True)
class Delivery:
    """One POST of the demo, the answer that it has to get, and why."""

    what: str
    body: dict[str, Any]
    status: int
    answer: str
    """The outcome, or how the error begins."""
    why: str
    secret: str = SECRET
    timestamp: int | None = None

    def post(self, url: str) -> Answer:
        """Sign the body, deliver it to ``url``, and return what came back."""
        body = samples.encode(self.body)
        return post(url, body, samples.sign(body, self.secret, self.timestamp))

    def is_answered_by(self, answer: Answer) -> bool:
        """Whether ``answer`` is the one that was expected."""
        return answer.status == self.status and answer.outcome.startswith(self.answer)


def main() -> int:
    """Run the demo and print what happened. Returns the exit status."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
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


def write_handlers(folder: Path) -> None:
    """Write the demo's handler package: the shipped modules, and the one that fails at first."""
    package = folder / PACKAGE
    package.mkdir()
    for pattern in SHIPPED:
        for path in (ROOT / "handlers").glob(pattern):
            shutil.copy(path, package)
    (package / f"{FAILING.replace('.', '_')}.py").write_text(FAILING_MODULE, encoding="utf-8")


def script(api: StripeApi) -> list[Delivery]:
    """Return what is delivered, in order, and give ``api`` what the callbacks will fetch."""
    meter, checkout = _sample("meter", METER), _sample("checkout", CHECKOUT, context="acct_demo")
    failing, lost = _sample("failing", FAILING), _sample("lost", LOST, unknown=True)
    api.put_event(samples.event(meter, {"developer_message_summary": "There is 1 invalid event"}))
    impact = {"event_type": "v1.payout.paid", "related_object_id": "po_demo"}
    api.put_event(samples.event(lost, {"impact": impact}))
    session = {"payment_status": "paid", "amount_total": 2000, "currency": "eur"}
    api.put_related_object(checkout, **session)
    api.put_related_object(failing)
    api.fail(failing["related_object"]["url"], status=429)
    return [
        Delivery("a meter's error report", meter, 200, "handled", "its module fetched the event"),
        Delivery("the same once more", meter, 200, "duplicate", "it was handled: nothing ran"),
        Delivery(
            "a completed checkout", checkout, 200, "handled", "its module fetched the session"
        ),
        Delivery(
            "one that Stripe lost", lost, 200, "handled", "its module says what to fetch instead"
        ),
        *_unhandled(),
        *_refused(),
        Delivery(
            "one whose callback raises",
            failing,
            500,
            "the callback failed",
            "Stripe's API answered 429",
        ),
        Delivery("the same, redelivered", failing, 200, "handled", "it ran again, and succeeded"),
        Delivery("the same once more", failing, 200, "duplicate", "it was handled: nothing ran"),
    ]


def _unhandled() -> list[Delivery]:
    """Return deliveries of events that no module is written for."""
    plain = _sample("unhandled", UNHANDLED)
    newer = _sample("unknown", UNKNOWN, unknown=True)
    live = _sample("live", METER, livemode=True)
    return [
        Delivery("a type without a module", plain, 200, "handled", "the fallback logged it"),
        Delivery("a type newer than the SDK", newer, 200, "handled", "the fallback logged it"),
        Delivery("a live event", live, 200, "wrong_mode", "not run: the API key is a test key"),
    ]


def _refused() -> list[Delivery]:
    """Return deliveries that are not taken: nothing of them is recorded."""
    forged, other = _sample("forged", METER), "whsec_demo_of_somebody_else"
    stale, then = _sample("stale", METER), int(time.time()) - STALE_SECONDS
    snapshot = {"id": "evt_demo_snapshot", "object": "event", "type": "customer.created"}
    mismatch, old, fat = (
        "the signature does not match",
        "the signature is too old",
        "this is a snap",
    )
    return [
        Delivery("a forged one", forged, 400, mismatch, "signed with another secret", other),
        Delivery("a stale one", stale, 400, old, "signed ten minutes ago", timestamp=then),
        Delivery("a snapshot event", snapshot, 400, fat, "it has to come from a thin destination"),
    ]


def _sample(name: str, event_type: str, **fields: Any) -> dict[str, Any]:
    return samples.notification(event_type, event_id=f"evt_demo_{name}", **fields)


@contextmanager
def service(folder: Path, api_url: str, patience: float = READY_SECONDS) -> Iterator[str]:
    """Run the real service on a free port, and give the address of its /webhook.

    All that it writes is in ``folder``, its log in ``folder/log``. No setting of this machine
    reaches it, neither from the environment nor from ``.env``. It is ended with the block. Raises
    ``SystemExit`` with its log when it is not ready in ``patience`` seconds, or does not answer.
    """
    port = _free_port()
    command = [sys.executable, "-m", "gunicorn", "--bind", f"{HOST}:{port}"]
    with (folder / "log").open("wb") as log_file:
        process = subprocess.Popen(  # noqa: S603 - our own server
            [*command, "--config", str(ROOT / "gunicorn.conf.py")],
            cwd=folder,
            env=_environment(folder, api_url, port),
            stdout=log_file,
            stderr=log_file,
            start_new_session=True,  # so that Ctrl-C reaches it through us, in good order
        )
    try:
        _wait_until_ready(process, port, patience)
        yield f"http://{HOST}:{port}/webhook"
    except OSError as error:
        written = (folder / "log").read_text(encoding="utf-8")
        sys.exit(f"The service does not answer: {error}. Its log:\n\n{written}")
    finally:
        end(process)


def _environment(folder: Path, api_url: str, port: int) -> dict[str, str]:
    return {
        "PYTHONPATH": str(ROOT),
        "STRIPE_API_KEY": "sk_test_demo_fake",
        "STRIPE_WEBHOOK_SECRET": SECRET,
        "STRIPE_API_BASE": api_url,
        "DATABASE_URL": _database_url(folder),
        "HANDLERS_PACKAGE": PACKAGE,
        "PORT": str(port),
        "LOG_FORMAT": "json",
    }


def _database_url(folder: Path) -> str:
    return f"sqlite:///{folder}/inbox.sqlite3"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, patience: float) -> None:
    deadline = time.monotonic() + patience
    while not _is_ready(port):
        if process.poll() is not None or time.monotonic() > deadline:
            raise TimeoutError(f"not ready after {patience:g} s, or ended")
        time.sleep(0.1)


def _is_ready(port: int) -> bool:
    with closing(HTTPConnection(HOST, port, timeout=READY_SECONDS)) as connection:
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200  # noqa: PLR2004 - HTTP's own number
        except (OSError, HTTPException):
            return False


def end(process: subprocess.Popen[bytes], patience: float = END_SECONDS) -> None:
    """End ``process``: politely, and after ``patience`` seconds with all its children."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(patience)
    with suppress(ProcessLookupError):  # usually nobody is left
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _leave(number: int, _frame: object) -> NoReturn:
    """End because of a signal, by way of everything that has to be cleaned up."""
    for other in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(other, signal.SIG_IGN)
    sys.exit(128 + number)


def read_inbox(folder: Path) -> list[Event]:
    """Return what the service recorded, in order of arrival."""
    with closing(Inbox(_database_url(folder), lease_seconds=1)) as inbox:
        return inbox.administration.latest(100)[::-1]


def show_answers(deliveries: list[Delivery], answers: list[Answer]) -> None:
    """Print what was sent and what came back."""
    rows = [
        (delivery.what, str(answer.status), _shorten(answer.outcome), delivery.why)
        for delivery, answer in zip(deliveries, answers, strict=True)
    ]
    _show("What was delivered", ("sent", "status", "answer", "because"), rows)


def show_inbox(events: list[Event]) -> None:
    """Print what the inbox holds."""
    rows = [
        (
            event.id,
            event.type,
            event.state,
            str(event.attempt),
            str(event.deliveries),
            event.outcome,
        )
        for event in events
    ]
    headings = ("event id", "type", "state", "attempts", "deliveries", "outcome")
    _show("What the inbox holds", headings, rows)


def show_asked(api: StripeApi) -> None:
    """Print what the callbacks asked of Stripe's API."""
    rows = [
        (f"{asked.method} {asked.path}", asked.request_trigger, asked.stripe_context)
        for asked in api.asked
    ]
    headings = ("request", "Stripe-Request-Trigger", "Stripe-Context")
    _show("What the callbacks asked of Stripe's API", headings, rows)


def show_log(written: str) -> None:
    """Print what the service logged while callbacks ran: what they logged, and what they raised."""
    lines = [json.loads(line) for line in written.splitlines() if line.startswith("{")]
    rows = [
        (line["level"], line["event"], line["event_id"], _details(line))
        for line in lines
        if "event_id" in line and line["event"] != "delivery"
    ]
    _show("What the callbacks logged", ("level", "event", "event id", "details"), rows)


def _details(line: dict[str, Any]) -> str:
    """Return the fields of a log line as text, of an exception its last line only."""
    own = ("level", "event", "timestamp", "event_id", "event_type")
    fields = {name: value for name, value in line.items() if name not in own}
    if "exception" in fields:
        fields["exception"] = fields["exception"].splitlines()[-1]
    return " ".join(f"{name}={value}" for name, value in fields.items())


def _show(title: str, headings: tuple[str, ...], rows: Iterable[tuple[str | None, ...]]) -> None:
    """Print an aligned table."""
    lines = [headings, *(tuple(cell or "-" for cell in row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    click.secho(title, bold=True)
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        click.echo(f"  {'  '.join(cells).rstrip()}")
    click.echo()


def _shorten(text: str) -> str:
    return textwrap.shorten(text, ANSWER_WIDTH, placeholder=" ...")


def wrong_answers(deliveries: list[Delivery], answers: list[Answer]) -> list[str]:
    """Return a sentence for each delivery that was not answered as it had to be."""
    return [
        f"{delivery.what}: {answer.status} {answer.outcome},"
        f" instead of {delivery.status} {delivery.answer}"
        for delivery, answer in zip(deliveries, answers, strict=True)
        if not delivery.is_answered_by(answer)
    ]


def wrong_events(events: list[Event]) -> list[str]:
    """Return a sentence for each event that was not recorded as it had to be."""
    found = {
        event.id: (event.state, event.attempt, event.deliveries, event.outcome) for event in events
    }
    return [
        f"{event_id}: the inbox has {found.get(event_id)}, instead of {RECORDED.get(event_id)}"
        for event_id in sorted(found.keys() | RECORDED.keys())
        if found.get(event_id) != RECORDED.get(event_id)
    ]


def judge(problems: list[str]) -> int:
    """Print whether all was as expected, and return the exit status."""
    if problems:
        click.echo("\n  ".join(["Not as expected:", *problems]), err=True)
        return 1
    click.echo(
        "All of it as expected. Next: `make handler TYPE=v1.customer.created`, `make dev`, and"
    )
    click.echo("from another terminal `.venv/bin/flask events send v1.customer.created`.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
