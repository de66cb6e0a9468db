"""The webhook endpoints of the stand-in, read by the SDK over real HTTP."""

from __future__ import annotations

import pytest
import stripe

from devkit.stripe_api import StripeApi

URL = "https://your.host/webhook"
TYPES = ["customer.created", "invoice.paid"]


def make_client(stripe_api: StripeApi, key: str = "sk_test_fake") -> stripe.StripeClient:
    """Return a client of the stand-in."""
    return stripe.StripeClient(key, base_addresses={"api": stripe_api.url})


@pytest.fixture
def client(stripe_api: StripeApi, monkeypatch: pytest.MonkeyPatch) -> stripe.StripeClient:
    """A client of the stand-in, with a test key."""
    monkeypatch.setattr(stripe, "enable_telemetry", False)
    return make_client(stripe_api)


class TestRetrieve:
    """One endpoint."""

    def test_fields(self, client: stripe.StripeClient, stripe_api: StripeApi) -> None:
        """It has each field of the SDK's class, but for those of other answers."""
        name = stripe_api.webhook_endpoints.add(URL, TYPES)
        found = client.v1.webhook_endpoints.retrieve(name)
        assert isinstance(found, stripe.WebhookEndpoint)
        assert (found.id[:3], found.url, found.status) == ("we_", URL, "enabled")
        assert found.enabled_events == TYPES
        declared = set(stripe.WebhookEndpoint.__annotations__) - {"OBJECT_NAME"}
        # The secret is in the answer to ``create`` only.
        assert declared - set(found.to_dict()) == {"deleted", "secret"}

    def test_changes_of_a_person(self, client: stripe.StripeClient, stripe_api: StripeApi) -> None:
        """They are in the next answer. A deleted endpoint is not found."""
        name = stripe_api.webhook_endpoints.add(URL, TYPES)
        stripe_api.webhook_endpoints.change(name, status="disabled")
        assert client.v1.webhook_endpoints.retrieve(name).status == "disabled"
        stripe_api.webhook_endpoints.remove(name)
        with pytest.raises(stripe.InvalidRequestError, match="No such webhook endpoint") as raised:
            client.v1.webhook_endpoints.retrieve(name)
        assert (raised.value.http_status, raised.value.code) == (404, "resource_missing")

    def test_key_of_the_other_mode(
        self, client: stripe.StripeClient, stripe_api: StripeApi
    ) -> None:
        """A test key does not see a live endpoint."""
        name = stripe_api.webhook_endpoints.add(URL, TYPES, livemode=True)
        with pytest.raises(stripe.InvalidRequestError):
            client.v1.webhook_endpoints.retrieve(name)
        live = make_client(stripe_api, "sk_live_fake")
        assert live.v1.webhook_endpoints.retrieve(name).livemode is True

    def test_id_that_is_taken(self, stripe_api: StripeApi) -> None:
        """A test cannot replace an endpoint by mistake."""
        stripe_api.webhook_endpoints.add(URL, TYPES, endpoint_id="we_1")
        with pytest.raises(ValueError, match="'we_1' already"):
            stripe_api.webhook_endpoints.add(URL, TYPES, endpoint_id="we_1")


class TestList:
    """The list, the newest endpoint first."""

    def test_pages(self, client: stripe.StripeClient, stripe_api: StripeApi) -> None:
        """The SDK reads all pages. The default page has ten endpoints."""
        names = [stripe_api.webhook_endpoints.add(URL, TYPES) for _ in range(12)]
        first = client.v1.webhook_endpoints.list()
        assert (len(first.data), first.has_more) == (10, True)
        found = [each.id for each in first.auto_paging_iter()]
        assert found == names[::-1]
        assert len(stripe_api.asked) == 2

    def test_no_endpoint(self, client: stripe.StripeClient) -> None:
        """The list is empty."""
        found = client.v1.webhook_endpoints.list({"limit": 1})
        assert (found.data, found.has_more) == ([], False)

    @pytest.mark.parametrize(
        ("query", "problem"),
        [
            ({"limit": 101}, "limit: must be between 1 and 100"),
            ({"ending_before": "we_1"}, "unknown parameter: ending_before"),
            ({"starting_after": "we_1"}, "No such webhook endpoint: 'we_1'"),
        ],
    )
    def test_refused_query(
        self, client: stripe.StripeClient, query: dict[str, str], problem: str
    ) -> None:
        """The error says what is wrong."""
        with pytest.raises(stripe.InvalidRequestError, match=problem):
            client.v1.webhook_endpoints.list(query)  # type: ignore[arg-type]  # a plain dict


def test_other_requests_are_not_answered(
    client: stripe.StripeClient, stripe_api: StripeApi
) -> None:
    """The stand-in creates, changes and deletes none."""
    name = stripe_api.webhook_endpoints.add(URL, TYPES)
    with pytest.raises(stripe.InvalidRequestError) as raised:
        client.v1.webhook_endpoints.delete(name)
    assert raised.value.http_status == 404
    for path in (f"/v1/webhook_endpoints/{name}/x", "/x/v1/webhook_endpoints/x"):
        with pytest.raises(stripe.InvalidRequestError, match=f"answers 404 to GET {path}"):
            client.raw_request("get", path)
    assert client.v1.webhook_endpoints.retrieve(name).id == name
