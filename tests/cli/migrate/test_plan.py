"""``flask migrate plan`` and ``mirror``: which types can move, and a thin destination for them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result

from app.stripe_api.catalog import Kind, event_types
from devkit.destinations import PATH
from devkit.stripe_api import StripeApi

Run = Callable[..., Result]
Put = Callable[..., str]

URL = "https://your.host/webhook"
ENABLED = [
    *("customer.created", "invoice.paid", "customer.source.created"),
    *("charge.failed", "charge.captured"),
]
PAIR = "v1.customer.created"


@pytest.fixture
def put(stripe_api: StripeApi) -> Callable[..., str]:
    """A function that puts an old endpoint with these types at Stripe, and returns its id."""

    def put(types: list[str], endpoint_id: str = "we_1", **fields: Any) -> str:
        if endpoint_id == "ed":
            return stripe_api.destinations.add(URL, types, event_payload="snapshot", **fields)
        return stripe_api.webhook_endpoints.add(URL, types, endpoint_id=endpoint_id)

    return put


class TestPlan:
    """The plan has each enabled type, and changes nothing."""

    @pytest.mark.parametrize("kind", ["we_1", "ed"])
    def test_each_type(self, run: Run, put: Callable[..., str], kind: str) -> None:
        """Its thin form, its modules, and what to do. Both kinds of endpoints have a plan."""
        result = run("plan", put(ENABLED, kind), "--json")
        assert result.exit_code == 0
        rows = {each["snapshot"]: each for each in json.loads(result.output)["types"]}
        assert sorted(rows) == sorted(ENABLED)
        found = {name: (each["thin"], each["next"]) for name, each in rows.items()}
        assert found == {
            "customer.created": (PAIR, "is a pair"),
            "invoice.paid": ("v1.invoice.paid", "write the thin module"),
            "customer.source.created": (None, "stays: there is no thin form"),
            "charge.failed": (
                "v1.charge.failed",
                "has its thin module: remove the type from the endpoint",
            ),
            "charge.captured": (
                "v1.charge.captured",
                "has no module: remove the type, or write the thin module",
            ),
        }

    def test_table(self, run: Run, put: Callable[..., str]) -> None:
        """A person reads what to write next."""
        output = run("plan", put(ENABLED)).output
        assert f"we_1 is enabled and sends to {URL}." in output
        assert "4 types of 5 can move to thin events." in output
        assert "flask handlers new v1.charge.captured" in output
        assert "customer.source.created  none" in output

    def test_all_are_ready(self, run: Run, put: Callable[..., str]) -> None:
        """The next command is the one that makes the destination."""
        assert "flask migrate mirror we_1" in run("plan", put(["customer.created"])).output

    def test_none_can_move(self, run: Run, put: Callable[..., str]) -> None:
        """There is no next command."""
        output = run("plan", put(["customer.source.created"])).output
        assert output.endswith("0 types of 1 can move to thin events.\n")

    def test_wildcard(self, run: Run, put: Callable[..., str]) -> None:
        """``*`` means all types of the SDK, and the plan says so."""
        put(["*"])
        assert "all types" in run("plan", "we_1").output
        found = json.loads(run("plan", "we_1", "--json").output)
        assert found["has_all"] is True
        assert len(found["types"]) == len(event_types(Kind.SNAPSHOT))

    def test_thin_destination(self, run: Run, stripe_api: StripeApi) -> None:
        """There is nothing to move."""
        result = run("plan", stripe_api.destinations.add(URL, [PAIR]))
        assert result.exit_code == 1
        assert "sends thin events already" in result.stderr

    def test_unknown_endpoint(self, run: Run) -> None:
        """The error of Stripe's is one sentence."""
        result = run("plan", "we_none")
        assert (result.exit_code, result.stderr[:6]) == (3, "Error:")


class TestMirror:
    """It creates a thin destination, and leaves the old endpoint unchanged."""

    @pytest.mark.parametrize("kind", ["we_1", "ed"])
    def test_types_with_a_thin_module(
        self, run: Run, stripe_api: StripeApi, put: Callable[..., str], kind: str
    ) -> None:
        """Types without one would go to the fallback. The secret is shown once."""
        old = put(ENABLED, kind)
        result = run("mirror", old, "--yes")
        (made,) = (each for each in stripe_api.destinations.ids if each != old)
        destination = stripe_api.destinations.get(made)
        assert destination["enabled_events"] == ["v1.charge.failed", PAIR]
        assert (destination["event_payload"], destination["events_from"]) == ("thin", ["@self"])
        assert destination["webhook_endpoint"]["url"] == URL
        assert result.output.count(stripe_api.destinations.secret(made)) == 1
        assert "  not invoice.paid: write the thin module" in result.output
        changes = [each.path for each in stripe_api.asked if each.method != "GET"]
        assert changes == [PATH]

    def test_it_asks(self, run: Run, stripe_api: StripeApi, put: Callable[..., str]) -> None:
        """Without a yes it creates nothing."""
        result = run("mirror", put(ENABLED), input="n\n")
        assert result.exit_code == 1
        assert "Create it?" in result.output
        assert stripe_api.destinations.ids == []

    @pytest.mark.parametrize("case", [("we_1", ["--connected-accounts"]), ("ed", [])])
    def test_connected_accounts(
        self, stripe_api: StripeApi, run: Run, put: Put, case: tuple[str, list[str]]
    ) -> None:
        """An event destination says it. A webhook endpoint does not."""
        kind, options = case
        old = put(ENABLED, kind, events_from=["@accounts"])
        run("mirror", old, "--yes", *options, "--url", "https://other.host/webhook")
        (made,) = (each for each in stripe_api.destinations.ids if each != old)
        destination = stripe_api.destinations.get(made)
        assert destination["events_from"] == ["@accounts"]
        assert destination["webhook_endpoint"]["url"] == "https://other.host/webhook"

    def test_no_thin_module(self, run: Run, stripe_api: StripeApi, put: Callable[..., str]) -> None:
        """A destination needs a type."""
        result = run("mirror", put(["invoice.paid"]), "--yes")
        assert result.exit_code == 1
        assert "No type of it has a thin module" in result.stderr
        assert stripe_api.destinations.ids == []

    def test_no_url(self, run: Run, stripe_api: StripeApi) -> None:
        """An endpoint that sends to no URL, such as to Amazon, gives none."""
        old = stripe_api.destinations.add(URL, ENABLED, event_payload="snapshot")
        stripe_api.destinations.change(old, webhook_endpoint={"url": None})
        result = run("mirror", old, "--yes")
        assert (result.exit_code, "Add --url" in result.stderr) == (1, True)
