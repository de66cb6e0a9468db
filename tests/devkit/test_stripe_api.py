"""The stand-in for Stripe's API, used by the SDK's client over real HTTP."""

import http.client
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
import stripe
from stripe.v2.core import EventNotification

from devkit import samples
from devkit.http_client import put
from devkit.stripe_api import Asked, StripeApi
from tests.support.waiting import wait_for

METER = "v1.billing.meter.error_report_triggered"
KEY = "sk_test_fake_for_tests"


@pytest.fixture
def stripe_client(
    stripe_api: StripeApi, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., stripe.StripeClient]:
    """A function that makes a client of the stand-in with a time-out of one second."""
    monkeypatch.setattr(stripe, "enable_telemetry", False)

    def make(retries: int = 0) -> stripe.StripeClient:
        return stripe.StripeClient(
            KEY,
            http_client=stripe.RequestsClient(timeout=(1, 1)),
            max_network_retries=retries,
            base_addresses={"api": stripe_api.url},
        )

    return make


class Sample:
    """A notification, and the SDK's object for it."""

    def __init__(
        self, client: stripe.StripeClient, event_type: str = METER, context: str | None = None
    ) -> None:
        """Make a sample of the type for the account ``context``."""
        self.body = samples.notification(event_type, context=context)
        self.typed: Any = EventNotification.from_json(samples.encode(self.body), client)
        self.event_path = f"/v2/core/events/{self.body['id']}"


class TestServing:
    """The stand-in serves events and objects that the SDK reads as typed objects."""

    def test_event_and_object_are_fetched(
        self, stripe_api: StripeApi, stripe_client: Callable[..., stripe.StripeClient]
    ) -> None:
        """``fetch_event`` and ``fetch_related_object`` return the SDK's classes with all fields."""
        sample = Sample(stripe_client())
        stripe_api.put_event(samples.event(sample.body, {"developer_message_summary": "no meter"}))
        stripe_api.put_related_object(sample.body, display_name="Requests")
        event, meter = sample.typed.fetch_event(), sample.typed.fetch_related_object()
        assert isinstance(event, stripe.events.V1BillingMeterErrorReportTriggeredEvent)
        assert event.data.developer_message_summary == "no meter"
        assert isinstance(meter, stripe.billing.Meter)
        assert meter.display_name == "Requests"
        assert event.fetch_related_object().id == meter.id

    def test_each_related_object_is_fetched(
        self, stripe_api: StripeApi, stripe_client: Callable[..., stripe.StripeClient]
    ) -> None:
        """The related object of each type has the class that the SDK promises."""
        client, fetched, promised = stripe_client(), {}, {}
        for event_type in samples.event_types():
            if samples.related_object_kind(event_type) != "none":
                sample = Sample(client, event_type)
                stripe_api.put_related_object(sample.body)
                fetched[event_type] = type(sample.typed.fetch_related_object())
                promised[event_type] = samples.related_class(event_type)
        assert fetched == promised

    def test_services_find_what_was_put(
        self, stripe_api: StripeApi, stripe_client: Callable[..., stripe.StripeClient]
    ) -> None:
        """Any path can be served, for callbacks that fetch more than the related object."""
        stripe_api.put("/v1/customers/cus_1", {"id": "cus_1", "object": "customer"})
        assert stripe_client().v1.customers.retrieve("cus_1").id == "cus_1"

    def test_address_only_while_serving(self) -> None:
        """Outside of ``serve()`` there is no address."""
        api = StripeApi()
        with pytest.raises(RuntimeError, match="only inside"):
            _ = api.url
        with api.serve():
            assert api.url.startswith("http://127.0.0.1:")
        with pytest.raises(RuntimeError, match="only inside"):
            _ = api.url

    def test_port_can_be_given(self) -> None:
        """A given port is used."""
        with StripeApi().serve() as first:
            port = int(first.url.rpartition(":")[2])
        with StripeApi().serve(port) as second:
            assert second.url == f"http://127.0.0.1:{port}"


class TestOffers:
    """``offer`` serves what a callback may fetch, without overriding a test."""

    def test_offer_is_filled(
        self, stripe_api: StripeApi, stripe_client: Callable[..., stripe.StripeClient]
    ) -> None:
        """The event and the object have the given fields, and placeholders for the others."""
        sample = Sample(stripe_client())
        stripe_api.offer(sample.body, {"validation_end": "now"}, {"display_name": "Requests"})
        data = sample.typed.fetch_event().data
        assert (data.validation_end, data.reason.error_count) == ("now", 0)
        meter = sample.typed.fetch_related_object()
        assert (meter.display_name, meter.status) == ("Requests", "active")

    def test_type_without_an_object(
        self, stripe_api: StripeApi, stripe_client: Callable[..., stripe.StripeClient]
    ) -> None:
        """For a type without an object only the event is offered."""
        sample = Sample(stripe_client(), "v1.billing.meter.no_meter_found")
        stripe_api.offer(sample.body)
        assert sample.typed.fetch_event().id == sample.body["id"]

    def test_what_was_put_or_removed_stays(
        self, stripe_api: StripeApi, stripe_client: Callable[..., stripe.StripeClient]
    ) -> None:
        """An offer does not replace an earlier answer or removal."""
        sample = Sample(stripe_client())
        stripe_api.put_related_object(sample.body, display_name="mine")
        stripe_api.remove(sample.event_path)
        stripe_api.offer(sample.body, fields={"display_name": "offered"})
        assert sample.typed.fetch_related_object().display_name == "mine"
        with pytest.raises(stripe.InvalidRequestError):
            sample.typed.fetch_event()

    def test_source_is_asked_for_the_rest(self) -> None:
        """The source answers unknown paths. A removed path stays 404."""
        api = StripeApi(lambda path: {"id": "made"} if path.startswith("/v1/made") else None)
        api.put("/v1/put", {"id": "put"})
        api.remove("/v1/made/removed")
        with api.serve():
            assert _get(api, "/v1/put") == (200, {"id": "put"})
            assert _get(api, "/v1/made") == (200, {"id": "made"})
            assert _get(api, "/v1/made/removed")[0] == 404
            assert _get(api, "/v1/other")[0] == 404

    def test_healed(
        self, stripe_api: StripeApi, stripe_client: Callable[..., stripe.StripeClient]
    ) -> None:
        """``heal`` removes faults that have not occurred yet."""
        sample = Sample(stripe_client())
        stripe_api.put_event(samples.event(sample.body))
        stripe_api.fail(times=100)
        stripe_api.heal()
        assert sample.typed.fetch_event().id == sample.body["id"]


def _get(api: StripeApi, path: str) -> tuple[int, Any]:
    """Request a path, and return status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", int(api.url.rpartition(":")[2]))
    connection.request("GET", path)
    answer = connection.getresponse()
    status, body = answer.status, json.loads(answer.read())
    connection.close()
    return status, body


class TestErrors:
    """Errors have the form that the SDK reads, in both versions of the API."""

    @pytest.mark.parametrize(
        ("status", "error", "codes"),
        [
            (400, stripe.InvalidRequestError, (None, None)),
            (401, stripe.AuthenticationError, (None, None)),
            (403, stripe.PermissionError, (None, None)),
            (404, stripe.InvalidRequestError, ("resource_missing", "not_found")),
            (409, stripe.APIError, (None, None)),
            (429, stripe.RateLimitError, (None, "rate_limit")),
            (500, stripe.APIError, (None, None)),
        ],
    )
    def test_status_becomes_the_sdks_error(
        self,
        status: int,
        error: type[stripe.StripeError],
        codes: tuple[str | None, str | None],
        stripe_api: StripeApi,
        stripe_client: Callable[..., stripe.StripeClient],
    ) -> None:
        """Each status raises the same error as an answer of Stripe's."""
        sample = Sample(stripe_client())
        stripe_api.fail(status=status, times=2)
        for fetch, code in zip(
            (sample.typed.fetch_related_object, sample.typed.fetch_event), codes, strict=True
        ):
            with pytest.raises(error, match=f"answers {status} to GET") as raised:
                fetch()
            assert (raised.value.http_status, raised.value.code) == (status, code)

    def test_what_was_not_put_is_missing(
        self, stripe_api: StripeApi, stripe_client: Callable[..., stripe.StripeClient]
    ) -> None:
        """A removed or unknown object is 404, like a deleted one."""
        sample = Sample(stripe_client())
        stripe_api.put_event(samples.event(sample.body))
        assert sample.typed.fetch_event().id == sample.body["id"]
        stripe_api.remove(sample.event_path)
        stripe_api.remove(sample.event_path)
        for fetch in (sample.typed.fetch_event, sample.typed.fetch_related_object):
            with pytest.raises(stripe.InvalidRequestError) as raised:
                fetch()
            assert raised.value.http_status == 404

    def test_faults_are_used_up(
        self, stripe_api: StripeApi, stripe_client: Callable[..., stripe.StripeClient]
    ) -> None:
        """A fault occurs ``times`` times, on its path only."""
        sample = Sample(stripe_client())
        stripe_api.put_event(samples.event(sample.body))
        stripe_api.put_related_object(sample.body)
        stripe_api.fail(sample.event_path, status=503, times=2)
        sample.typed.fetch_related_object()
        for _ in range(2):
            with pytest.raises(stripe.APIError):
                sample.typed.fetch_event()
        assert sample.typed.fetch_event().id == sample.body["id"]

    def test_headers_of_an_error_are_sent(
        self, stripe_api: StripeApi, stripe_client: Callable[..., stripe.StripeClient]
    ) -> None:
        """The SDK retries a 429 only if a header says so."""
        sample = Sample(stripe_client(retries=1))
        stripe_api.put_event(samples.event(sample.body))
        stripe_api.fail(status=429)
        with pytest.raises(stripe.RateLimitError):
            sample.typed.fetch_event()
        stripe_api.fail(status=429, headers={"Stripe-Should-Retry": "true"})
        assert sample.typed.fetch_event().id == sample.body["id"]
        assert len(stripe_api.asked) == 3


class TestConnections:
    """Connections fail too."""

    def test_reset(
        self, stripe_api: StripeApi, stripe_client: Callable[..., stripe.StripeClient]
    ) -> None:
        """A reset raises the SDK's error, and the request is recorded."""
        sample = Sample(stripe_client())
        stripe_api.put_event(samples.event(sample.body))
        stripe_api.reset(sample.event_path)
        with pytest.raises(stripe.APIConnectionError, match=r"ConnectionResetError|reset by peer"):
            sample.typed.fetch_event()
        assert sample.typed.fetch_event().id == sample.body["id"]
        assert len(stripe_api.asked) == 2

    def test_time_out(
        self, stripe_api: StripeApi, stripe_client: Callable[..., stripe.StripeClient]
    ) -> None:
        """A held request exceeds the time-out of the client."""
        sample = Sample(stripe_client())
        stripe_api.hold()
        with pytest.raises(stripe.APIConnectionError, match="timed out"):
            sample.typed.fetch_event()

    def test_held_request_is_answered_when_released(
        self, stripe_api: StripeApi, stripe_client: Callable[..., stripe.StripeClient]
    ) -> None:
        """A held request is recorded, waits, and is answered after its release."""
        sample = Sample(stripe_client())
        stripe_api.put_event(samples.event(sample.body))
        release = stripe_api.hold(sample.event_path)
        with ThreadPoolExecutor(1) as pool:
            fetching = pool.submit(sample.typed.fetch_event)
            deadline = time.monotonic() + 10
            while not stripe_api.asked and time.monotonic() < deadline:
                time.sleep(0.01)
            assert not fetching.done()
            release.set()
            assert fetching.result(10).id == sample.body["id"]

    def test_end_lets_held_requests_go(self) -> None:
        """When the stand-in stops, it answers held requests."""
        api = StripeApi()
        with ThreadPoolExecutor(1) as pool:
            with api.serve():
                api.hold()
                connection = http.client.HTTPConnection(api.url.removeprefix("http://"))
                connection.request("GET", "/v1/balance")
                answer = pool.submit(connection.getresponse)
                wait_for(lambda: api.asked)  # a request that arrives after the end is refused
            assert answer.result(60).status == 404
            connection.close()


class TestAsked:
    """The stand-in records all requests."""

    def test_headers_of_interest(
        self, stripe_api: StripeApi, stripe_client: Callable[..., stripe.StripeClient]
    ) -> None:
        """A fetch is recorded with path, context and trigger. Of the key, kind and mode are."""
        sample = Sample(stripe_client(), context="acct_1")
        stripe_api.put_event(samples.event(sample.body))
        sample.typed.fetch_event()
        assert stripe_api.asked == [
            Asked(
                method="GET",
                path=sample.event_path,
                query="",
                stripe_context="acct_1",
                request_trigger=f"event={sample.body['id']}",
                idempotency_key=None,
                authorization="Bearer sk_test_***",
            )
        ]

    def test_idempotency_and_query(
        self, stripe_api: StripeApi, stripe_client: Callable[..., stripe.StripeClient]
    ) -> None:
        """A change is recorded with its idempotency key, a list with its query."""
        stripe_api.put("/v1/customers", {"object": "list", "data": []})
        client = stripe_client()
        client.v1.customers.create({"name": "A"}, options={"idempotency_key": "key_1"})
        client.v1.customers.list({"limit": 3})
        change, listing = stripe_api.asked
        assert (change.method, change.idempotency_key) == ("POST", "key_1")
        assert (listing.method, listing.query) == ("GET", "limit=3")

    @pytest.mark.parametrize(
        ("sent", "kept"),
        [
            ({}, None),
            ({"Authorization": "Bearer rk_live_fake"}, "Bearer rk_live_***"),
            ({"Authorization": "Bearer something"}, "Bearer ***"),
            ({"Authorization": "Basic c2tfZmFrZTo="}, "***"),
        ],
    )
    def test_keys_are_masked(
        self, stripe_api: StripeApi, sent: dict[str, str], kept: str | None
    ) -> None:
        """No key is recorded, in any form."""
        connection = http.client.HTTPConnection(stripe_api.url.removeprefix("http://"))
        connection.request("GET", "/v1/balance", headers=sent)
        assert connection.getresponse().status == 404
        connection.close()
        assert [asked.authorization for asked in stripe_api.asked] == [kept]

    def test_many_threads(
        self, stripe_api: StripeApi, stripe_client: Callable[..., stripe.StripeClient]
    ) -> None:
        """Simultaneous requests are all answered and recorded. A fault occurs once."""
        stripe_api.put("/v1/balance", {"object": "balance"})
        stripe_api.fail(status=500, times=5)
        client, failed, lock = stripe_client(), [], threading.Lock()

        def ask(_: int) -> None:
            try:
                client.v1.balance.retrieve()
            except stripe.APIError as error:
                with lock:
                    failed.append(error)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(ask, range(80)))
        assert (len(stripe_api.asked), len(failed)) == (80, 5)


def get(api: StripeApi, path: str) -> Any:
    """Return the JSON that the stand-in serves at ``path``."""
    with closing(http.client.HTTPConnection(api.url.removeprefix("http://"))) as connection:
        connection.request("GET", path)
        return json.load(connection.getresponse())


class TestPut:
    """Another process can put objects into the stand-in, with a method that Stripe does not use."""

    def test_object_is_served(self, stripe_api: StripeApi) -> None:
        """An object is served at its path, and not listed."""
        assert put(f"{stripe_api.url}/v1/customers/cus_1", {"id": "cus_1"}) == 201
        assert get(stripe_api, "/v1/customers/cus_1") == {"id": "cus_1"}
        assert [asked.method for asked in stripe_api.asked] == ["PUT", "GET"]

    def test_event_is_listed(self, stripe_api: StripeApi) -> None:
        """An event is served, and listed."""
        event = samples.event(samples.notification("v1.customer.created"))
        assert put(f"{stripe_api.url}/v2/core/events/{event['id']}", event) == 201
        for path in (f"/v2/core/events/{event['id']}", "/v2/core/events"):
            found = get(stripe_api, path)
            assert event in (found, *found.get("data", []))

    def test_other_body_is_refused(self, stripe_api: StripeApi) -> None:
        """A body that is no JSON object is refused."""
        assert put(f"{stripe_api.url}/v1/customers/cus_1", []) == 404  # type: ignore[arg-type]  # wrong on purpose
