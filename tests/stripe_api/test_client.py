"""The client of callbacks: time-outs, retries, no telemetry, one fetch of an object in a run."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import replace

import pytest
import stripe

from app.settings import Settings
from app.stripe_api.client import MAX_NETWORK_RETRIES, TIMEOUT, build_client
from devkit import samples
from devkit.stripe_api import StripeApi
from tests.conftest import Receiver


def test_timeouts_are_seconds(settings: Settings) -> None:
    """The SDK's 80 seconds would block a thread and its delivery longer than Stripe waits."""
    client = build_client(settings)

    http = client._requestor._get_http_client()  # noqa: SLF001 - no getter
    assert http._timeout == TIMEOUT == (3, 8)  # type: ignore[attr-defined]  # noqa: SLF001 - no getter
    assert client._requestor._options.max_network_retries == MAX_NETWORK_RETRIES == 2  # noqa: SLF001 - no getter


def test_telemetry_is_off(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Telemetry writes to the home directory. Without one the first call would fail."""
    monkeypatch.setattr(stripe, "enable_telemetry", True)
    build_client(settings)
    assert stripe.enable_telemetry is False


def test_stand_in_replaces_stripe(settings: Settings, stripe_api: StripeApi) -> None:
    """STRIPE_API_BASE sends every call to a stand-in. A failed one is repeated twice."""
    client = build_client(replace(settings, stripe_api_base=stripe_api.url))
    stripe_api.put("/v1/customers/cus_1", {"id": "cus_1", "object": "customer"})
    stripe_api.fail(status=500, times=2)

    assert client.v1.customers.retrieve("cus_1").id == "cus_1"
    assert [asked.path for asked in stripe_api.asked] == ["/v1/customers/cus_1"] * 3


def test_default_is_stripe(settings: Settings) -> None:
    """Without STRIPE_API_BASE the SDK's own address is used."""
    client = build_client(settings)
    assert client._requestor._options.base_addresses["api"] == stripe.DEFAULT_API_BASE  # noqa: SLF001 - no getter


class TestOrganization:
    """With an organization key, each request names an account."""

    @pytest.mark.parametrize(("context", "used"), [(None, "acct_own"), ("acct_1", "acct_1")])
    def test_callback(
        self,
        make_receiver: Callable[..., Receiver],
        stripe_api: StripeApi,
        context: str | None,
        used: str,
    ) -> None:
        """It is that of the event, or the default for an event without one."""
        source = """
            def handle(notif, client):
                notif.fetch_event()
                notif.fetch_related_object()
                client.v1.customers.retrieve("cus_1")
                client.v1.customers.update("cus_1", {})
        """
        receiver = make_receiver(
            {"v1_customer_created": source},
            stripe_api_base=stripe_api.url,
            stripe_api_key="sk_org_fake_for_tests",
            stripe_mode="test",
            stripe_context="acct_own",
        )
        notification = samples.notification("v1.customer.created", object_id="cus_1")
        notification |= {"context": context}
        stripe_api.put_related_object(notification)
        stripe_api.put_event(samples.event(notification))
        assert receiver.deliver(notification).status_code == 200
        assert [each.stripe_context for each in stripe_api.asked] == [used] * 4
        assert {each.authorization for each in stripe_api.asked} == {"Bearer sk_org_***"}

    def test_other_headers_for_an_account(self, settings: Settings, stripe_api: StripeApi) -> None:
        """A request that names an account in the older header gets no context: it would win."""
        settings = replace(
            settings,
            stripe_api_base=stripe_api.url,
            stripe_api_key="sk_org_fake_for_tests",
            stripe_mode="test",
            stripe_context="acct_own",
        )
        client = build_client(settings)
        stripe_api.put("/v1/balance", {"object": "balance"})
        client.raw_request("get", "/v1/balance", stripe_account="acct_1")
        client.raw_request("get", "/v1/balance", stripe_context="acct_2")
        client.raw_request("get", "/v1/balance")
        contexts = [each.stripe_context for each in stripe_api.asked]
        assert contexts == [None, "acct_2", "acct_own"]


class TestFetchCache:
    """One run of a callback fetches an object once."""

    @staticmethod
    def asked(
        make_receiver: Callable[..., Receiver], api: StripeApi, source: str, status: int = 200
    ) -> list[str]:
        """Run a callback with these lines, and return the requests to the stand-in."""
        head = "answers = []\ndef handle(notif, client):\n    path = notif.related_object.url\n"
        modules = {"v1_customer_created": head + textwrap.indent(textwrap.dedent(source), "    ")}
        receiver = make_receiver(modules, stripe_api_base=api.url)
        notification = samples.notification(
            "v1.customer.created", event_id="evt_1", object_id="cus_1", context="acct_1"
        )
        api.put_related_object(notification, name="Jenny")
        api.put_event(samples.event(notification))
        assert receiver.deliver(notification).status_code == status
        return [f"{each.method} {each.path.rpartition('/')[2]}" for each in api.asked]

    def test_object_of_a_notification_is_fetched_once(
        self, make_receiver: Callable[..., Receiver], stripe_api: StripeApi
    ) -> None:
        """However many helpers of a callback fetch an object, Stripe gets one request for it."""
        source = """
            one, two = notif.fetch_related_object(), notif.fetch_related_object()
            assert one.name == two.name == "Jenny"
            assert one is not two  # what one helper changes the other does not see
            assert notif.fetch_event().id == notif.fetch_event().id
        """
        assert self.asked(make_receiver, stripe_api, source) == ["GET cus_1", "GET evt_1"]

    @pytest.mark.parametrize(
        "change", ['client.v1.customers.update("cus_1", {})', 'client.v1.customers.delete("cus_1")']
    )
    def test_write_clears_the_cache(
        self, make_receiver: Callable[..., Receiver], stripe_api: StripeApi, change: str
    ) -> None:
        """A callback that writes and then reads again sees the change."""
        source = f"notif.fetch_related_object()\n{change}\nnotif.fetch_related_object()\n"
        method = "POST" if "update" in change else "DELETE"
        assert self.asked(make_receiver, stripe_api, source) == [
            "GET cus_1",
            f"{method} cus_1",
            "GET cus_1",
        ]

    def test_request_by_id_is_not_cached(
        self, make_receiver: Callable[..., Receiver], stripe_api: StripeApi
    ) -> None:
        """A callback that requests an object by its id sees each change."""
        source = "for _ in range(2): client.v1.customers.retrieve('cus_1')\n"
        assert self.asked(make_receiver, stripe_api, source) == ["GET cus_1"] * 2

    def test_account_is_part_of_the_key(
        self, make_receiver: Callable[..., Receiver], stripe_api: StripeApi
    ) -> None:
        """The same URL in the context of another account is another object."""
        source = """
            headers = {"Stripe-Request-Trigger": "event=evt_1"}
            for context in ("acct_1", "acct_2", "acct_1"):
                client.raw_request("get", path, stripe_context=context, headers=headers)
        """
        self.asked(make_receiver, stripe_api, source)
        assert [each.stripe_context for each in stripe_api.asked] == ["acct_1", "acct_2"]

    def test_failure_is_not_cached(
        self, make_receiver: Callable[..., Receiver], stripe_api: StripeApi
    ) -> None:
        """A failed fetch is repeated."""
        source = """
            import stripe
            try:
                notif.fetch_related_object()
            except stripe.RateLimitError:
                notif.fetch_related_object()
        """
        stripe_api.fail(status=429)
        assert self.asked(make_receiver, stripe_api, source) == ["GET cus_1"] * 2

    def test_next_run_has_an_empty_cache(
        self, make_receiver: Callable[..., Receiver], stripe_api: StripeApi
    ) -> None:
        """A retry fetches the object again, and no other event sees the cached one."""
        source = """
            notif.fetch_related_object()
            raise ValueError
        """
        assert self.asked(make_receiver, stripe_api, source, 500) == ["GET cus_1"]
        assert self.asked(make_receiver, stripe_api, source, 500) == ["GET cus_1"] * 2

    def test_nothing_is_cached_outside_of_a_run(
        self, settings: Settings, stripe_api: StripeApi
    ) -> None:
        """A command, or a thread of a callback, gets each answer from Stripe."""
        client = build_client(replace(settings, stripe_api_base=stripe_api.url))
        stripe_api.put("/v1/balance", {"object": "balance"})
        for _ in range(2):
            client.raw_request("get", "/v1/balance", headers={"Stripe-Request-Trigger": "event=e"})
        assert len(stripe_api.asked) == 2
