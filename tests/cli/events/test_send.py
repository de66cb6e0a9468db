"""``flask events send``: real signed deliveries to the real application, over HTTP."""

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest
from click.testing import Result
from flask import Flask
from flask.testing import FlaskCliRunner
from werkzeug.wrappers import Response

from app.cli.dev_server import DevServer
from app.environment import Origin
from app.services import services
from devkit.dev_state import announced
from devkit.http_client import post
from devkit.stripe_api import StripeApi
from tests.conftest import Receiver
from tests.support.serving import serving

TYPE = "v1.customer.created"
OTHER = "http://127.0.0.1:9"
OWN_PORT = Origin(environment=frozenset({"PORT"}))


@pytest.fixture
def url(app: Flask) -> Iterator[str]:
    """The address of the served application."""
    with serving(app) as address:
        yield address


@pytest.fixture
def send(runner: FlaskCliRunner, url: str) -> Callable[..., list[list[str]]]:
    """A function that sends to the application, and returns the rows of the table as cells."""

    def run(*arguments: str) -> list[list[str]]:
        result = runner.invoke(args=["events", "send", "--url", url, *arguments])
        assert result.exit_code == 0, result.stderr
        return [re.split(r" {2,}", line) for line in result.stdout.splitlines()]

    return run


class TestSend:
    """Deliveries are those of Stripe, and the answers are shown."""

    def test_answer_is_shown(self, send: Callable[..., list[list[str]]]) -> None:
        """The table has a row with id, type, status, milliseconds and outcome."""
        head, row = send(TYPE)
        assert head == ["event id", "type", "status", "answer ms", "outcome"]
        assert row[0].startswith("evt_")
        assert [*row[1:3], row[4]] == [TYPE, "200", "fallback"]
        assert float(row[3]) > 0

    def test_columns_are_aligned(self, runner: FlaskCliRunner, url: str) -> None:
        """Each cell is below its heading."""
        result = runner.invoke(args=["events", "send", TYPE, "--url", url, "--times", "2"])
        head, *rows = result.stdout.splitlines()
        for row in rows:
            assert row.index(TYPE) == head.index("type")
            assert row.index(" 200 ") + 1 == head.index("status")
            assert row.index("fallback") == head.index("outcome")

    def test_times(self, send: Callable[..., list[list[str]]]) -> None:
        """Several events have different ids, and all are taken."""
        _, *rows = send(TYPE, "--times", "3")
        assert [row[4] for row in rows] == ["fallback"] * 3
        assert len({row[0] for row in rows}) == 3

    def test_duplicate(self, send: Callable[..., list[list[str]]]) -> None:
        """A duplicate is the same event again, with the outcome ``duplicate``."""
        _, first, second = send(TYPE, "--duplicate")
        assert first[0] == second[0]
        assert [first[4], second[4]] == ["fallback", "duplicate"]

    def test_context(self, app: Flask, send: Callable[..., list[list[str]]]) -> None:
        """The context is part of the event."""
        _, row = send(TYPE, "--context", "acct_1")
        event = services(app).inbox.administration.find(row[0])
        assert event is not None
        assert event.context == "acct_1"

    def test_mode_is_that_of_the_key(self, send: Callable[..., list[list[str]]]) -> None:
        """Events have the mode of the service, unless an option says otherwise."""
        assert send(TYPE)[1][4] == "fallback"
        assert send(TYPE, "--test")[1][4] == "fallback"
        assert send(TYPE, "--live")[1][4] == "wrong_mode"

    def test_forged(self, send: Callable[..., list[list[str]]]) -> None:
        """A forged delivery is signed with an unknown secret."""
        _, row = send(TYPE, "--forge")
        assert [row[2], row[4]] == ["400", "the signature does not match the body"]

    def test_stale(self, send: Callable[..., list[list[str]]]) -> None:
        """A stale delivery was signed too long ago."""
        _, row = send(TYPE, "--stale")
        assert [row[2], row[4]] == ["400", "the signature is too old"]

    def test_unknown_type_can_be_asked_for(self, send: Callable[..., list[list[str]]]) -> None:
        """With --unknown a type that the SDK does not know is sent."""
        _, row = send("v9.thing.made", "--unknown")
        assert [*row[1:3], row[4]] == ["v9.thing.made", "200", "fallback"]

    def test_failed_callback_is_said_with_what_to_do(
        self, make_receiver: Callable[..., Receiver]
    ) -> None:
        """After a failed callback the exit status is 1, and the error says where to look."""
        receiver = make_receiver({"v1_customer_created": "def handle(notif, client): 1 / 0\n"})
        with serving(receiver.app) as url:
            result = receiver.app.test_cli_runner().invoke(
                args=["events", "send", "v1.customer.created", "--url", url]
            )
        assert result.exit_code == 1
        assert "500" in result.stdout
        assert "A callback failed; see the log of the service." in result.stderr

    def test_first_secret_is_used(self, app: Flask, runner: FlaskCliRunner, url: str) -> None:
        """The first of several secrets signs. Here the service does not have it."""
        own = services(app)
        secrets = ("whsec_fake_first", *own.settings.stripe_webhook_secrets)
        changed = replace(own, settings=replace(own.settings, stripe_webhook_secrets=secrets))
        app.extensions["services"] = changed
        result = runner.invoke(args=["events", "send", TYPE, "--url", url])
        assert "the signature does not match the body" in result.stdout

    def test_old_secret_of_a_running_service(
        self, app: Flask, runner: FlaskCliRunner, url: str
    ) -> None:
        """If the service does not know the first secret, the error says to restart it."""
        own = services(app)
        secrets = ("whsec_fake_first", *own.settings.stripe_webhook_secrets)
        changed = replace(own, settings=replace(own.settings, stripe_webhook_secrets=secrets))
        app.extensions["services"] = changed
        result = runner.invoke(args=["events", "send", TYPE, "--url", url])
        assert result.exit_code == 1
        assert "A service reads .env only when it starts: restart it." in result.stderr

    @pytest.mark.parametrize(
        ("status", "error", "words"),
        [
            (400, "the signature is too old", "The service refused the delivery."),
            (404, "not found", "This is not the path of the webhook."),
            (503, "the inbox is unavailable", "The service is not available; see its output."),
            (418, "no coffee", "The delivery was answered 418."),
        ],
    )
    def test_refusal_is_a_failure(
        self, status: int, error: str, words: str, runner: FlaskCliRunner
    ) -> None:
        """A refused delivery is a row, an error that says what to do, and exit status 1."""
        with serving(Response(json.dumps({"error": error}), status)) as url:
            result = runner.invoke(args=["events", "send", TYPE, "--url", url])
        assert result.exit_code == 1
        assert error in result.stdout
        assert words in result.stderr

    def test_running_make_dev_is_the_target(
        self, app: Flask, runner: FlaskCliRunner, url: str
    ) -> None:
        """Without --url the target is a running ``make dev``, even on another port."""
        own = services(app)
        app.extensions["services"] = replace(own, settings=replace(own.settings, port=9))
        with announced(DevServer(None, url, "")):
            result = runner.invoke(args=["events", "send", TYPE])
        assert "fallback" in result.stdout
        assert result.stderr == f"Delivering to {url}\n"

    @pytest.mark.parametrize("changes", [{"stripe_api_base": OTHER}, {"origin": OWN_PORT}])
    def test_other_service_is_the_target(
        self, changes: dict[str, Any], app: Flask, runner: FlaskCliRunner, url: str
    ) -> None:
        """With another API, or PORT in the environment, the target is not ``make dev``."""
        own = services(app)
        port = urlsplit(url).port or 80
        settings = replace(own.settings, port=port, **changes)
        app.extensions["services"] = replace(own, settings=settings)
        with announced(DevServer(None, f"{OTHER}/webhook", "")):
            result = runner.invoke(args=["events", "send", TYPE])
        assert "fallback" in result.stdout

    def test_port_is_the_settings(self, app: Flask, runner: FlaskCliRunner, url: str) -> None:
        """Without --url the target is /webhook on PORT of this machine."""
        own = services(app)
        port = int(url.split(":")[2].partition("/")[0])
        app.extensions["services"] = replace(own, settings=replace(own.settings, port=port))
        result = runner.invoke(args=["events", "send", TYPE])
        assert "fallback" in result.stdout


class TestRedeliver:
    """--redeliver delivers an event of the inbox once more."""

    def test_same_event(self, send: Callable[..., list[list[str]]]) -> None:
        """The event is a duplicate for the service."""
        _, first = send(TYPE)
        _, again = send("--redeliver", first[0])
        assert again[:3] == first[:3]
        assert again[4] == "duplicate"

    def test_unknown_event(self, runner: FlaskCliRunner, send: Callable[..., object]) -> None:
        """An id that the inbox does not have is an error."""
        send(TYPE)
        result = runner.invoke(args=["events", "send", "--redeliver", "evt_none"])
        assert (result.exit_code, result.stderr) == (1, "Error: The inbox has no event evt_none.\n")


FETCH = """
    seen = []
    def handle(notif, client):
        seen.append(notif.fetch_related_object())
"""


class TestStandIn:
    """--field and --lost put objects into the stand-in for Stripe's API."""

    @pytest.fixture
    def fetching(self, make_receiver: Callable[..., Receiver], stripe_api: StripeApi) -> Receiver:
        """A service with a callback that fetches its object from the stand-in."""
        return make_receiver({"v1_customer_created": FETCH}, stripe_api_base=stripe_api.url)

    def test_fields_of_the_object(self, fetching: Receiver) -> None:
        """The callback fetches the object with the given fields and placeholders."""
        fields = ["email=jenny@example.com", "balance=-5", 'metadata={"plan": "a=b"}']
        options = [part for field in fields for part in ("--field", field)]
        with serving(fetching.app) as url:
            result = run(fetching, "--url", url, TYPE, *options)
        assert result.exit_code == 0, result.stderr
        (customer,) = fetching.module("v1_customer_created").seen
        assert (customer.email, customer.balance) == ("jenny@example.com", -5)
        assert customer.metadata["plan"] == "a=b"
        assert customer.name is None

    def test_fields_of_a_snapshot_event(self, make_receiver: Callable[..., Receiver]) -> None:
        """The object in the event has the given fields. No stand-in is needed.

        --context is the account of the event.
        """
        note = "seen = []\ndef handle(event, client): seen.append(event)\n"
        receiver = make_receiver({"customer_created": note})
        with serving(receiver.app) as url:
            options = ["--field", "email=jenny@example.com", "--context", "acct_1"]
            result = run(receiver, "--url", url, "customer.created", *options)
            assert result.exit_code == 0, result.stderr
            again = run(
                receiver, "--url", url, "--redeliver", re.findall(r"evt_\w+", result.stdout)[0]
            )
            assert "duplicate" in again.stdout
        (event,) = receiver.module("customer_created").seen
        assert (event.data.object.email, event.account) == ("jenny@example.com", "acct_1")

    def test_field_of_an_unknown_object(self, runner: FlaskCliRunner) -> None:
        """An object that the SDK does not know can have any field."""
        arguments = ["thing.made", "--unknown", "--field", "size=1", "--url", CLOSED]
        result = runner.invoke(args=["events", "send", *arguments])
        assert "No service listens" in result.stderr

    def test_lost_event_is_found_by_reconcile(self, fetching: Receiver) -> None:
        """A lost event is not delivered, and `flask events reconcile` finds and runs it.

        It is found again right after a reconciliation, too.
        """
        for number in (1, 2):
            result = run(fetching, TYPE, "--lost", "--field", f"email={number}@example.com")
            assert result.exit_code == 0, result.stderr
            event_id = result.stdout.split()[0]
            assert fetching.services.inbox.administration.find(event_id) is None
            assert "flask events reconcile\n" in result.stdout
            runner = fetching.app.test_cli_runner()
            assert runner.invoke(args=["events", "reconcile", "--yes"]).exit_code == 0
            assert fetching.event(event_id).outcome == "handled"
        seen = fetching.module("v1_customer_created").seen
        assert [each.email for each in seen] == ["1@example.com", "2@example.com"]

    def test_lost_snapshot_event(
        self, make_receiver: Callable[..., Receiver], stripe_api: StripeApi
    ) -> None:
        """It is in the list of snapshot events."""
        modules = {"customer_created": "def handle(event, client): pass\n"}
        receiver = make_receiver(modules, stripe_api_base=stripe_api.url)
        lost = run(receiver, "customer.created", "--lost", "--context", "acct_1")
        assert lost.exit_code == 0, lost.stderr
        runner = receiver.app.test_cli_runner()
        options = ["--account", "acct_1", "--yes"]
        assert runner.invoke(args=["events", "reconcile", *options]).exit_code == 0
        event = receiver.event(lost.stdout.split()[0])
        assert (event.outcome, event.context) == ("handled", "acct_1")

    def test_both_events_of_an_action(
        self, make_receiver: Callable[..., Receiver], stripe_api: StripeApi
    ) -> None:
        """The thin event names the snapshot event that was sent before: the two are a pair."""
        modules = {
            "customer_created": "def handle(event, client): pass\n",
            "v1_customer_created": "def handle(notif, client): pass\n",
        }
        receiver = make_receiver(modules, stripe_api_base=stripe_api.url)
        with serving(receiver.app) as url:
            first = run(receiver, "customer.created", "--url", url).stdout.splitlines()[1].split()
            other = run(receiver, TYPE, "--url", url, "--snapshot-event", first[0])
        assert (first[-1], other.stdout.split()[-1]) == ("handled", "twin")

    def test_lost_event_of_an_account(self, fetching: Receiver) -> None:
        """The command to find the event names its account."""
        result = run(fetching, TYPE, "--lost", "--context", "acct_1", "--times", "2")
        assert len(result.stdout.splitlines()) == 3
        assert "events reconcile --account acct_1" in result.stdout

    def test_type_that_reconcile_does_not_find(self, fetching: Receiver) -> None:
        """A lost event of a type without a module is refused: it would not be found."""
        result = run(fetching, "v1.invoice.paid", "--lost")
        assert result.exit_code == 1
        assert "v1.invoice.paid has no handler module" in result.stderr

    def test_no_stand_in(self, runner: FlaskCliRunner) -> None:
        """Without a stand-in, the error says how to get one. Stripe itself is not asked."""
        result = runner.invoke(args=["events", "send", TYPE, "--field", "email=a"])
        assert result.exit_code == 1
        assert "Start it with `make dev`" in result.stderr

    @pytest.mark.parametrize("answer", [None, Response("{}", 404)])
    def test_other_program(
        self, answer: Response | None, make_receiver: Callable[..., Receiver]
    ) -> None:
        """An address that is no stand-in of the devkit is an error."""
        with serving(answer or Response()) as url:
            base = url.removesuffix("/webhook") if answer else CLOSED
            receiver = make_receiver(stripe_api_base=base)
            result = run(receiver, TYPE, "--field", "email=a")
        assert result.exit_code == 1
        reason = f"{base} is no stand-in" if answer else f"No service listens at {base}."
        assert reason in result.stderr

    @pytest.mark.parametrize(
        ("event_type", "field", "words"),
        [
            (TYPE, "emial=a", "'customer' has no field 'emial'; nearest: email"),
            (TYPE, "zzz=a", "'customer' has no field 'zzz'; nearest: address, "),
            (TYPE, "email", "'email' is not like email=jenny@example.com"),
            (TYPE, "=a", "'=a' is not like email=jenny@example.com"),
            ("v1.billing.meter.no_meter_found", "a=b", "names no object that has fields"),
            ("customer.created", "emial=a", "'customer' has no field 'emial'; nearest: email"),
        ],
    )
    def test_wrong_field(self, event_type: str, field: str, words: str, fetching: Receiver) -> None:
        """A field that the object does not have is refused, with the nearest names."""
        result = run(fetching, event_type, "--field", field)
        assert result.exit_code == 2
        assert words in result.stderr


CLOSED = "http://127.0.0.1:9"


def run(receiver: Receiver, *arguments: str) -> Result:
    """Call ``flask events send``."""
    return receiver.app.test_cli_runner().invoke(args=["events", "send", *arguments])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Give either a TYPE, or an event of the inbox with --redeliver."),
        ([TYPE, "--redeliver", "evt_1"], "Give either a TYPE, or an event of the inbox with"),
        (["--redeliver", "evt_1", "--times", "2"], "--redeliver takes neither --times nor"),
        (["--redeliver", "evt_1", "--context", "acct_1"], "--redeliver takes neither --times nor"),
        (["--redeliver", "evt_1", "--lost"], "--lost delivers nothing: omit --redeliver."),
        *(
            (
                ["--snapshot-event", "evt_1", *others],
                "--snapshot-event takes a thin TYPE, and neither",
            )
            for others in (
                ["customer.created"],
                ["--redeliver", "evt_2"],
                [TYPE, "--times", "2"],
                [TYPE, "--lost"],
            )
        ),
        ([TYPE, "--lost", "--forge"], "--lost delivers nothing: omit --forge."),
        ([TYPE, "--lost", "--url", CLOSED], "--lost delivers nothing: omit --url."),
    ],
)
def test_options_that_exclude_each_other(
    arguments: list[str], words: str, runner: FlaskCliRunner
) -> None:
    """Options that contradict each other are refused before any delivery."""
    result = runner.invoke(args=["events", "send", *arguments])
    assert result.exit_code == 2
    assert words in result.stderr


class TestNoAnswer:
    """Without an answer the error says what to do."""

    def test_nothing_listens(self, runner: FlaskCliRunner) -> None:
        """A closed port is one sentence and exit status 1."""
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{unused.getsockname()[1]}/webhook"
            result = runner.invoke(args=["events", "send", TYPE, "--url", url])
        assert result.exit_code == 1
        assert result.stderr == (
            f"Error: No service listens at {url}. Start it with `make run`, or give its"
            " address with --url.\n"
        )

    @pytest.mark.parametrize(
        ("answer", "reason"), [(b"", "Remote end closed"), (b"garbage\r\n\r\n", "garbage")]
    )
    def test_no_http(self, answer: bytes, reason: str, runner: FlaskCliRunner) -> None:
        """A server without HTTP is an error with its answer, and exit status 1."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            thread = threading.Thread(target=_answer_once, args=[server, answer])
            thread.start()
            url = f"http://127.0.0.1:{server.getsockname()[1]}/webhook"
            result = runner.invoke(args=["events", "send", TYPE, "--url", url])
            thread.join()
        assert result.exit_code == 1
        assert result.stderr.startswith(f"Error: {url} did not answer: {reason}")

    @pytest.mark.parametrize(
        "url", ["https://127.0.0.1:1x/webhook", "http://" + "a" * 70 + ".test/"]
    )
    def test_address_that_cannot_be(self, url: str, runner: FlaskCliRunner) -> None:
        """An impossible address is shown with the reason."""
        result = runner.invoke(args=["events", "send", TYPE, "--url", url])
        assert result.exit_code == 1
        assert result.stderr.startswith(f"Error: {url} did not answer: ")

    def test_default_url_is_where_the_service_listens(
        self, make_receiver: Callable[..., Receiver]
    ) -> None:
        """Without --url, the target is the address of BIND_HOST and PORT."""
        runner = make_receiver(bind_host="::1", port=1).app.test_cli_runner()
        result = runner.invoke(args=["events", "send", TYPE])
        assert "No service listens at http://[::1]:1/webhook." in result.stderr

    def test_no_url(self, runner: FlaskCliRunner) -> None:
        """A value that is no URL is refused before any delivery."""
        result = runner.invoke(args=["events", "send", TYPE, "--url", "localhost:4242"])
        assert result.exit_code == 2
        assert "'localhost:4242' is no URL like http://127.0.0.1:4242/webhook" in result.stderr


def _answer_once(server: socket.socket, answer: bytes) -> None:
    """Read one request to its end, send ``answer``, and close."""
    connection, _ = server.accept()
    with connection:
        received = b""
        while not received.endswith(b"}"):  # unread bytes would cause a reset
            received += connection.recv(65536)
        connection.sendall(answer)


class TestUnknownType:
    """A type that the SDK does not know is refused without --unknown."""

    def test_nearest_are_named(self, runner: FlaskCliRunner) -> None:
        """The error has the nearest types, and the exit status is 2."""
        result = runner.invoke(args=["events", "send", "v1.custommer.created"])
        assert (result.exit_code, result.stdout) == (2, "")
        assert "'v1.custommer.created' is no event type of stripe" in result.stderr
        assert "nearest: v1.customer.created, " in result.stderr
        assert "--unknown" in result.stderr

    def test_nothing_is_near(self, runner: FlaskCliRunner) -> None:
        """Without a similar type there is no suggestion."""
        result = runner.invoke(args=["events", "send", "zzz"])
        assert result.exit_code == 2
        assert "nearest" not in result.stderr


class TestPost:
    """``post`` makes one POST like Stripe."""

    @pytest.mark.parametrize("body", [b"<html>", b"[]"])
    def test_answer_of_another_program(self, body: bytes) -> None:
        """An answer that is not from this service is shown as such."""
        with serving(Response(body, 200)) as url:
            answer = post(url, b"{}", "t=1")
        assert (answer.status, answer.outcome) == (200, "no JSON: is this the service's /webhook?")

    def test_redirect_is_an_answer(self) -> None:
        """Stripe follows no redirect, and neither does ``post``."""
        with serving(Response('{"error": "moved"}', 308, {"Location": "/other"})) as url:
            answer = post(url, b"{}", "t=1")
        assert (answer.status, answer.outcome) == (308, "moved")
