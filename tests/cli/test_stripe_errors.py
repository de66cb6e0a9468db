"""Each failure of Stripe's API becomes one sentence. The failures are real, over HTTP."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
import stripe

from app.cli.stripe_errors import StripeFailedError, checked, clean, explained
from devkit.stripe_api import StripeApi

KEY = "sk_test_fake_for_tests"


def ask(url: str, seconds: float = 10) -> str:
    """Request the balance and the destinations, and return the sentence of both errors.

    The calls use both versions of the API. The SDK reads their errors in different ways.
    """
    client = stripe.StripeClient(
        KEY, http_client=stripe.RequestsClient(timeout=seconds), base_addresses={"api": url}
    )
    said: set[str] = set()
    for call in (client.v1.balance.retrieve, client.v2.core.event_destinations.list):
        with pytest.raises(StripeFailedError) as raised, explained():
            call()
        said.add(raised.value.message)
    (only,) = said
    return only


@pytest.fixture(autouse=True)
def _no_telemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK writes nothing to the home directory."""
    monkeypatch.setattr(stripe, "enable_telemetry", False)


class TestAnswers:
    """Errors that Stripe's API answers."""

    @pytest.mark.parametrize(
        ("status", "begins", "holds"),
        [
            (401, "Stripe does not accept the API key (401).", "Check STRIPE_API_KEY"),
            (429, "Stripe's rate limit is reached (429).", "run the command again"),
            (409, "Stripe's API failed (409)", "https://status.stripe.com"),
            (500, "Stripe's API failed (500)", "https://status.stripe.com"),
            (503, "Stripe's API failed (503)", "https://status.stripe.com"),
        ],
    )
    def test_each_status_has_a_sentence(
        self, status: int, begins: str, holds: str, stripe_api: StripeApi
    ) -> None:
        """The sentence names the status and what to do."""
        stripe_api.fail(status=status, times=2)
        said = ask(stripe_api.url)
        assert said.startswith(begins)
        assert holds in said

    @pytest.mark.parametrize(
        ("status", "begins"),
        [
            (400, "Stripe's API refused the request (400): "),
            (403, "The API key may not do this (403): "),
            (404, "Stripe does not have it (404): "),
        ],
    )
    def test_stripes_own_words_are_shown(
        self, status: int, begins: str, stripe_api: StripeApi
    ) -> None:
        """Stripe's own message is quoted, with all keys masked."""
        body = b'{"error": {"message": "No %s\\n for sk_test_secret1."}}' % str(status).encode()
        stripe_api.garble(status=status, body=body, times=2)
        said = ask(stripe_api.url)
        assert said.startswith(f"{begins}No {status} for sk_test_***")
        assert "secret1" not in said

    def test_error_without_a_reason(self, stripe_api: StripeApi) -> None:
        """For an error without a message the sentence says so."""
        stripe_api.garble(status=400, body=b'{"error": {}}', times=2)
        assert ask(stripe_api.url) == ("Stripe's API refused the request (400): it gave no reason")

    def test_request_is_named(self, stripe_api: StripeApi) -> None:
        """The sentence has the request id, for Stripe's support."""
        stripe_api.fail(status=500, headers={"request-id": "req_1"}, times=2)
        assert ask(stripe_api.url).endswith(" (request req_1)")

    @pytest.mark.parametrize(
        ("status", "body"),
        [
            (200, b"<html>"),
            (200, b'{"data": ['),
            (200, b"\xff"),
            (502, b"<html>Bad Gateway sk_test_secret1</html>"),
            (502, b"[]"),
            (502, b'{"message": "bad gateway"}'),
            (502, b'{"error": "bad gateway"}'),
        ],
    )
    def test_answer_that_is_not_from_stripe(
        self, status: int, body: bytes, stripe_api: StripeApi
    ) -> None:
        """An answer that Stripe never sends is reported as such, and not quoted."""
        stripe_api.garble(status=status, body=body, times=2)
        said = ask(stripe_api.url)
        assert said.startswith("The answer is not from Stripe's API: ")
        assert "STRIPE_API_BASE" in said
        assert "secret1" not in said

    def test_missing_field(self, stripe_api: StripeApi) -> None:
        """An answer without a field that the SDK promises is not from Stripe either."""
        stripe_api.put("/v1/balance", {})
        client = stripe.StripeClient(KEY, base_addresses={"api": stripe_api.url})
        with pytest.raises(StripeFailedError, match="not from Stripe's API"), explained():
            _ = client.v1.balance.retrieve().livemode


class TestNoAnswer:
    """Errors of the connection to Stripe."""

    def test_refused(self) -> None:
        """A closed port is a refused connection."""
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            said = ask(f"http://127.0.0.1:{unused.getsockname()[1]}")
        assert said.startswith("Stripe's API cannot be reached: the connection was refused.")

    def test_reset(self, stripe_api: StripeApi) -> None:
        """A reset is a connection that broke off."""
        stripe_api.reset(times=2)
        said = ask(stripe_api.url)
        assert said.startswith("Stripe's API cannot be reached: the connection broke off.")

    def test_time_out(self, stripe_api: StripeApi) -> None:
        """An answer that takes longer than the time-out is reported as such."""
        stripe_api.hold(times=2)
        assert ask(stripe_api.url, 0.5).startswith("Stripe's API did not answer in time")

    def test_name_that_is_unknown(self) -> None:
        """An unknown host is a name that cannot be resolved."""
        said = ask("http://stripe.invalid")
        assert said.startswith("Stripe's API cannot be reached: its name cannot be resolved.")

    def test_closed(self) -> None:
        """A server that closes the connection without an answer is a connection that broke off."""
        with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
            hanging_up = pool.submit(_hang_up, server, times=2)
            said = ask(f"http://127.0.0.1:{server.getsockname()[1]}")
            hanging_up.result(10)
        assert "the connection broke off." in said

    def test_no_certificate(self, stripe_api: StripeApi) -> None:
        """A server without TLS behind an https address is a certificate error."""
        said = ask(stripe_api.url.replace("http:", "https:"))
        assert said.startswith("The certificate of the server that answered for Stripe's API")

    def test_impossible_address(self) -> None:
        """An address that cannot be used is a failed connection."""
        said = ask("http://127.0.0.1:99999")
        assert said.startswith("Stripe's API cannot be reached: no connection.")


def _hang_up(server: socket.socket, times: int) -> None:
    """Read a request and close its connection, ``times`` times."""
    for _ in range(times):
        connection, _address = server.accept()
        with connection:
            connection.recv(65536)


class TestOthers:
    """Other errors keep their type."""

    def test_type_of_an_answer_is_checked(self) -> None:
        """An answer of another type than the SDK promises is not from Stripe."""
        balance = stripe.Balance()
        assert checked(balance) is balance
        for answer, kind in (([], stripe.StripeObject), (balance, stripe.v2.ListObject)):
            with pytest.raises(StripeFailedError, match="not from Stripe's API"), explained():
                checked(answer, kind)

    def test_error_of_ours_stays(self) -> None:
        """An error in our own code is raised unchanged."""
        with pytest.raises(ZeroDivisionError), explained():
            _ = 1 / 0

    def test_no_error(self) -> None:
        """Without an error the block has no effect."""
        with explained():
            pass

    def test_exit_status_is_3(self) -> None:
        """The exit status is 3, which has no other meaning in any command."""
        assert StripeFailedError("x").exit_code == 3


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("Invalid API Key provided: sk_live_abc***xyz.", "Invalid API Key provided: sk_live_***"),
        ("Key 'rk_test_abc' lacks it", "Key 'rk_test_***' lacks it"),
        ("two\n lines  here.", "two lines here"),
        ("whsec_abc, pk_test_abc", "whsec_***, pk_test_***"),
    ],
)
def test_secrets_are_masked(text: str, cleaned: str) -> None:
    """Keys and signing secrets in a message are masked, except for their kind."""
    assert clean(text) == cleaned
