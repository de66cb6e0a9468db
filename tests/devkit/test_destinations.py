"""The event destinations of the stand-in, used by the SDK over real HTTP."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
import stripe
from werkzeug import Request, Response

from devkit.destinations import PATH, PING
from devkit.stripe_api import StripeApi
from tests.support.serving import serving
from tests.support.waiting import wait_for

WEBHOOK = "https://your.host/webhook"
TYPE = "v1.customer.created"
NEW: dict[str, Any] = {
    "name": "Ours",
    "type": "webhook_endpoint",
    "event_payload": "thin",
    "enabled_events": [TYPE],
    "webhook_endpoint": {"url": WEBHOOK},
}


@pytest.fixture
def client(stripe_api: StripeApi, monkeypatch: pytest.MonkeyPatch) -> stripe.StripeClient:
    """A client of the stand-in, with a test key."""
    monkeypatch.setattr(stripe, "enable_telemetry", False)
    made: stripe.StripeClient = make_client(stripe_api)
    return made


def make_client(stripe_api: StripeApi, key: str = "sk_test_fake", **more: Any) -> Any:
    """Return a client of the stand-in."""
    return stripe.StripeClient(key, base_addresses={"api": stripe_api.url}, **more)


def refusal(call: Callable[..., object], *arguments: object) -> str:
    """Call, expect status 400, and return the message."""
    with pytest.raises(stripe.InvalidRequestError) as raised:
        call(*arguments)
    assert raised.value.http_status == 400
    return str(raised.value)


class TestCreate:
    """Create answers with the fields of the SDK's class, and the secret only if included."""

    def test_fields(self, client: stripe.StripeClient) -> None:
        """The answer has each field of the SDK's class, in the SDK's classes."""
        made = client.v2.core.event_destinations.create(NEW)  # type: ignore[arg-type]  # a plain dict
        assert isinstance(made, stripe.v2.core.EventDestination)
        assert set(stripe.v2.core.EventDestination.__annotations__) - set(made.to_dict()) <= {
            "OBJECT_NAME",
            "_inner_class_types",
        }
        assert (made.status, made.livemode, made.events_from) == ("enabled", False, ["@self"])
        assert made.webhook_endpoint is not None
        assert made.webhook_endpoint.url is None
        assert made.webhook_endpoint.signing_secret is None

    def test_secret_and_url_are_included(self, client: stripe.StripeClient) -> None:
        """The secret is returned once, if included. The URL is returned whenever it is included."""
        service = client.v2.core.event_destinations
        include = ["webhook_endpoint.signing_secret", "webhook_endpoint.url"]
        made = service.create({**NEW, "include": include})  # type: ignore[typeddict-item]  # a plain dict
        again = service.retrieve(made.id, {"include": ["webhook_endpoint.url"]})
        assert made.webhook_endpoint is not None
        assert again.webhook_endpoint is not None
        assert str(made.webhook_endpoint.signing_secret).startswith("whsec_")
        assert made.webhook_endpoint.url == again.webhook_endpoint.url == WEBHOOK
        assert again.webhook_endpoint.signing_secret is None
        asking = {"include": ["webhook_endpoint.signing_secret"]}
        assert "include cannot hold" in refusal(service.retrieve, made.id, asking)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"name": None}, "Missing required parameter: name"),
            ({"enabled_events": []}, "Missing required parameter: enabled_events"),
            ({"enabled_events": ["*"]}, "cannot hold *"),
            ({"enabled_events": ["customer.created"]}, "cannot hold customer.created"),
            ({"event_payload": "snapshot"}, "a snapshot destination cannot hold v1.customer.cre"),
            ({"snapshot_api_version": "2024-06-20"}, "for snapshot destinations only"),
            ({"webhook_endpoint": {"url": "your.host"}}, "must be a URL"),
            ({"webhook_endpoint": {}}, "must be a URL"),
            ({"color": "red"}, "unknown parameter: color"),
            ({"include": ["secret"]}, "include cannot hold secret"),
        ],
    )
    def test_refusals(self, change: dict[str, Any], said: str, client: stripe.StripeClient) -> None:
        """Invalid parameters are refused by name."""
        assert said in refusal(client.v2.core.event_destinations.create, {**NEW, **change})

    def test_snapshot_may_have_all_types(self, client: stripe.StripeClient) -> None:
        """Only snapshot destinations accept the wildcard."""
        wanted: Any = {**NEW, "event_payload": "snapshot", "enabled_events": ["*"]}
        assert client.v2.core.event_destinations.create(wanted).enabled_events == ["*"]

    def test_api_version(self, client: stripe.StripeClient) -> None:
        """A snapshot destination has the given API version, or that of the account."""
        wanted: Any = {**NEW, "event_payload": "snapshot", "enabled_events": ["customer.created"]}
        service = client.v2.core.event_destinations
        older: Any = {**wanted, "snapshot_api_version": "2024-06-20"}
        made = [service.create(each).snapshot_api_version for each in (wanted, older, NEW)]  # type: ignore[arg-type]  # a plain dict
        assert made == [stripe.api_version, "2024-06-20", None]

    def test_live_needs_https(self, stripe_api: StripeApi, client: stripe.StripeClient) -> None:
        """In live mode the URL must be https, in test mode it may be http."""
        plain: Any = {**NEW, "webhook_endpoint": {"url": "http://your.host/webhook"}}
        live = make_client(stripe_api, "rk_live_fake")
        assert client.v2.core.event_destinations.create(plain).id
        assert "must begin with https" in refusal(live.v2.core.event_destinations.create, plain)

    def test_there_are_sixteen_at_most(
        self, stripe_api: StripeApi, client: stripe.StripeClient
    ) -> None:
        """The seventeenth is refused."""
        for _ in range(16):
            stripe_api.destinations.add(WEBHOOK, [TYPE])
        assert "maximum of 16" in refusal(client.v2.core.event_destinations.create, NEW)

    def test_repeated_request_makes_one(self, stripe_api: StripeApi) -> None:
        """A retry of a create with the same idempotency key creates one destination."""
        client = make_client(
            stripe_api, http_client=stripe.RequestsClient(timeout=(1, 1)), max_network_retries=2
        )
        release = stripe_api.hold(PATH)
        made = client.v2.core.event_destinations.create(NEW)
        release.set()
        wait_for(lambda: len(stripe_api.asked) >= 2)
        assert client.v2.core.event_destinations.list().data[0].id == made.id
        assert stripe_api.destinations.ids == [made.id]

    def test_without_a_key_each_one_counts(self, stripe_api: StripeApi) -> None:
        """Without an idempotency key a second request creates a second destination."""
        connection = http.client.HTTPConnection(stripe_api.url.removeprefix("http://"))
        for body in (json.dumps(NEW), json.dumps(NEW), "{", "[]"):
            connection.request("POST", PATH, body)
            connection.getresponse().read()
        connection.close()
        assert len(stripe_api.destinations.ids) == 2


class TestReadAndChange:
    """Retrieve, update, switch and delete work in the mode of the key."""

    def test_update_replaces_the_list(
        self, stripe_api: StripeApi, client: stripe.StripeClient
    ) -> None:
        """An update replaces the list of types. Other fields keep their values."""
        name = stripe_api.destinations.add(WEBHOOK, [TYPE, "v1.invoice.paid"], name="Ours")
        changed = client.v2.core.event_destinations.update(
            name, {"enabled_events": ["v1.charge.failed"], "include": ["webhook_endpoint.url"]}
        )
        assert (changed.enabled_events, changed.name) == (["v1.charge.failed"], "Ours")
        assert changed.webhook_endpoint is not None
        assert changed.webhook_endpoint.url == WEBHOOK

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"enabled_events": []}, "must not be empty"),
            ({"enabled_events": ["*"]}, "cannot hold *"),
            ({"event_payload": "snapshot"}, "unknown parameter: event_payload"),
            ({"events_from": ["@accounts"]}, "unknown parameter: events_from"),
            ({"webhook_endpoint": {"url": "ftp://your.host"}}, "must be a URL"),
        ],
    )
    def test_update_refuses(
        self,
        change: dict[str, Any],
        said: str,
        stripe_api: StripeApi,
        client: stripe.StripeClient,
    ) -> None:
        """An empty list, a wildcard, and immutable fields are refused."""
        name = stripe_api.destinations.add(WEBHOOK, [TYPE])
        assert said in refusal(client.v2.core.event_destinations.update, name, change)

    def test_url_can_be_changed(self, stripe_api: StripeApi, client: stripe.StripeClient) -> None:
        """An update changes the URL."""
        name = stripe_api.destinations.add(WEBHOOK, [TYPE])
        url = "https://other.host/webhook"
        client.v2.core.event_destinations.update(name, {"webhook_endpoint": {"url": url}})
        assert stripe_api.destinations.get(name)["webhook_endpoint"]["url"] == url

    def test_switch(self, stripe_api: StripeApi, client: stripe.StripeClient) -> None:
        """A disabled destination has a reason, an enabled one has none."""
        name = stripe_api.destinations.add(WEBHOOK, [TYPE])
        service = client.v2.core.event_destinations
        off = service.disable(name)
        assert off.status == "disabled"
        assert off.status_details is not None
        assert off.status_details.disabled is not None
        assert off.status_details.disabled.reason == "user"
        on = service.enable(name)
        assert (on.status, on.status_details) == ("enabled", None)

    def test_delete(self, stripe_api: StripeApi, client: stripe.StripeClient) -> None:
        """A deleted destination is not found."""
        name = stripe_api.destinations.add(WEBHOOK, [TYPE])
        assert client.v2.core.event_destinations.delete(name).id == name
        with pytest.raises(stripe.InvalidRequestError, match="No such event destination") as raised:
            client.v2.core.event_destinations.retrieve(name)
        assert (raised.value.http_status, raised.value.code) == (404, "not_found")

    def test_modes_are_apart(self, stripe_api: StripeApi, client: stripe.StripeClient) -> None:
        """A test key does not see live destinations, and a live key no test destinations."""
        live = stripe_api.destinations.add(WEBHOOK, [TYPE], livemode=True)
        with pytest.raises(stripe.InvalidRequestError, match="in test mode"):
            client.v2.core.event_destinations.retrieve(live)
        with_live_key = make_client(stripe_api, "sk_live_fake").v2.core.event_destinations
        assert with_live_key.retrieve(live).livemode is True
        assert client.v2.core.event_destinations.list().data == []

    def test_other_addresses_are_unknown(self, stripe_api: StripeApi) -> None:
        """A method or an address that the SDK does not use is 404."""
        connection = http.client.HTTPConnection(stripe_api.url.removeprefix("http://"))
        for method, path in (("PUT", PATH), ("GET", f"{PATH}/ed_1/ping"), ("POST", f"{PATH}/a/b")):
            connection.request(method, path)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 404
        connection.close()


class TestList:
    """The list has pages, with the newest destination first."""

    def test_all_pages(self, stripe_api: StripeApi, client: stripe.StripeClient) -> None:
        """Each destination is listed once, with included fields on every page."""
        names = [stripe_api.destinations.add(WEBHOOK, [TYPE]) for _ in range(5)]
        listing = client.v2.core.event_destinations.list(
            {"limit": 2, "include": ["webhook_endpoint.url"]}
        )
        found = list(listing.auto_paging_iter())
        assert [one.id for one in found] == list(reversed(names))
        assert {one.webhook_endpoint.url for one in found if one.webhook_endpoint} == {WEBHOOK}
        assert len(stripe_api.asked) == 3

    def test_change_while_it_is_read(
        self, stripe_api: StripeApi, client: stripe.StripeClient
    ) -> None:
        """A destination that is added in between comes first and shifts no page."""
        names = [stripe_api.destinations.add(WEBHOOK, [TYPE]) for _ in range(4)]
        stripe_api.destinations.before_answer = lambda request: (
            "page" in request.args and stripe_api.destinations.add(WEBHOOK, [TYPE])
        )
        listing = client.v2.core.event_destinations.list({"limit": 2})
        assert [one.id for one in listing.auto_paging_iter()] == list(reversed(names))

    def test_cursor_that_is_gone(self, stripe_api: StripeApi, client: stripe.StripeClient) -> None:
        """The page after a deleted destination is refused."""
        for _ in range(3):
            stripe_api.destinations.add(WEBHOOK, [TYPE])
        listing = client.v2.core.event_destinations.list({"limit": 1})
        stripe_api.destinations.remove(listing.data[0].id)
        assert "page token" in refusal(lambda: list(listing.auto_paging_iter()))

    @pytest.mark.parametrize("limit", [0, 101, "many"])
    def test_limit(self, limit: Any, client: stripe.StripeClient) -> None:
        """A limit that is out of range is refused."""
        said = refusal(client.v2.core.event_destinations.list, {"limit": limit})
        assert "limit must be from 1 to 100" in said


class Host:
    """A server that records the deliveries of pings."""

    def __init__(self) -> None:
        """Start without a delivery."""
        self.got: list[tuple[bytes, str]] = []

    def __call__(self, environ: Any, start_response: Any) -> Any:
        """Record one delivery."""
        request = Request(environ)
        self.got.append((request.get_data(), request.headers["Stripe-Signature"]))
        return Response(b"{}")(environ, start_response)


@pytest.fixture
def host() -> Iterator[tuple[Host, str]]:
    """A server for pings, and its URL."""
    taker = Host()
    with serving(taker) as url:
        yield taker, url


class TestPing:
    """A ping is signed and delivered, and its event can be fetched."""

    def test_round_trip(
        self, stripe_api: StripeApi, client: stripe.StripeClient, host: tuple[Host, str]
    ) -> None:
        """The answer, the delivery and the served event have the same id."""
        taker, url = host
        name = stripe_api.destinations.add(url, [TYPE], secret="whsec_of_this_one")
        event = client.v2.core.event_destinations.ping(name)
        wait_for(lambda: taker.got)
        ((body, signature),) = taker.got
        stripe.WebhookSignature.verify_header(body.decode(), signature, "whsec_of_this_one", 300)
        typed: Any = stripe.v2.core.EventNotification.from_json(body, client)
        assert isinstance(event, stripe.events.V2CoreEventDestinationPingEvent)
        assert (typed.id, typed.type, typed.related_object.id) == (event.id, PING, name)
        assert typed.fetch_event().id == event.id
        assert typed.fetch_related_object().id == name

    def test_disabled_is_not_pinged(
        self, stripe_api: StripeApi, client: stripe.StripeClient
    ) -> None:
        """A disabled destination cannot be pinged."""
        name = stripe_api.destinations.add(WEBHOOK, [TYPE], status="disabled")
        assert "disabled" in refusal(client.v2.core.event_destinations.ping, name)

    def test_end_waits_for_deliveries(
        self, stripe_api: StripeApi, client: stripe.StripeClient
    ) -> None:
        """The stand-in delivers pending pings before it stops."""
        taker = Host()

        def slow(environ: Any, start_response: Any) -> Any:
            time.sleep(0.3)
            return taker(environ, start_response)

        with serving(slow) as url:
            client.v2.core.event_destinations.ping(stripe_api.destinations.add(url, [TYPE]))
            stripe_api.destinations.close()
            assert len(taker.got) == 1

    def test_host_that_is_away(self, client: stripe.StripeClient, stripe_api: StripeApi) -> None:
        """A ping is answered even if its URL cannot be reached."""
        for url in ("http://127.0.0.1:9/webhook", "http://127.0.0.1:99999/webhook"):
            name = stripe_api.destinations.add(url, [TYPE])
            assert client.v2.core.event_destinations.ping(name).type == PING
        stripe_api.destinations.close()


def test_clock(stripe_api: StripeApi, client: stripe.StripeClient) -> None:
    """The single ``Date`` of an answer can differ from the clock of this machine."""
    stripe_api.clock_ahead = 3600
    answer: Any = client.v2.core.event_destinations.list().last_response
    there = parsedate_to_datetime(answer.headers["date"])
    assert 3500 < (there - datetime.now(UTC)).total_seconds() < 3700
